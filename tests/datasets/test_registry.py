from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from featstore.datasets import registry
from featstore.datasets.formats.folder import FolderSource
from featstore.datasets.registry import (
    FORMATS,
    available_datasets,
    data_root,
    open_dataset,
    resolve_dataset,
)
from featstore.errors import ConfigError, DatasetError, DatasetNotFoundError


def test_the_root_is_the_argument_then_the_environment_then_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATSTORE_DATA", str(tmp_path))
    assert data_root("x") == Path("x")
    assert data_root() == tmp_path
    monkeypatch.delenv("FEATSTORE_DATA")
    assert data_root() == Path("data")


def test_available_datasets_are_found(tmp_path: Path) -> None:
    (tmp_path / "sat4").mkdir()
    (tmp_path / "sat4" / "X_train_sat4.csv.gz").write_bytes(b"")
    (tmp_path / "UCMerced_LandUse" / "Images" / "forest").mkdir(parents=True)
    found = {one.format.name: one.found for one in available_datasets(tmp_path)}
    assert {"sat4", "sat6", "ucmerced", "folder", "table", "demo"} <= set(found)
    assert found["sat4"] == tmp_path / "sat4" / "X_train_sat4.csv.gz"
    assert found["sat6"] is None
    assert found["ucmerced"] == tmp_path / "UCMerced_LandUse" / "Images" / "forest"
    assert found["demo"] is None


@pytest.mark.parametrize("name", ["sat4", "sat6"])
def test_absent_files_are_named_with_place_and_cure(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetNotFoundError) as caught:
        open_dataset(name, tmp_path)
    message = str(caught.value)
    for part in (f"sat-{name[-1]}-full.mat", str(tmp_path / name), "csc.lsu.edu", "kaggle.com"):
        assert part in message
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        open_dataset(name, tmp_path / "absent")


def test_an_unknown_name_lists_the_datasets(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="sat4, sat6, ucmerced, .*folder, table, scene, demo"):
        open_dataset("imagenet", tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"), [("uc-merced", "ucmerced"), ("UCMerced", "ucmerced"), ("SAT-6", "sat6")]
)
def test_a_misspelled_name_is_answered_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(DatasetError, match=f"{name} is neither .* Did you mean .*{meant}"):
        resolve_dataset(name)


def test_a_folder_stands_for_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_dataset(str(tmp_path)) == ("folder", str(tmp_path))
    monkeypatch.setenv("FEATSTORE_DATA", "/data")
    assert resolve_dataset(str(tmp_path), "/data") == ("folder", str(tmp_path))
    with pytest.raises(ConfigError, match="or the root elsewhere, not both"):
        resolve_dataset(str(tmp_path), "elsewhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sat4").mkdir()
    assert resolve_dataset("sat4", "/data") == ("sat4", "/data")
    assert resolve_dataset("./sat4") == ("folder", "sat4")
    (tmp_path / "a.TIF").touch()
    assert resolve_dataset("a.TIF") == ("scene", "a.TIF")
    with pytest.raises(DatasetError, match="An empty name is neither"):
        resolve_dataset("")
    (tmp_path / "images.zip").touch()
    with pytest.raises(
        DatasetError, match=r"images\.zip is no folder, table \(\.csv.*\) or raster"
    ):
        resolve_dataset("images.zip")


def test_every_format_names_its_files_and_how_to_get_them() -> None:
    for entry in FORMATS.values():
        assert entry.description
        assert entry.needs
        assert entry.cure.endswith(".")


def test_datasets_need_no_torch() -> None:
    code = (
        "import sys, featstore.datasets, featstore.inference.contact_sheet; "
        "print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


class _Entry:
    def __init__(self, name: str, value: object) -> None:
        self.name, self.value, self._found = name, "pack.module:FORMAT", value

    def load(self) -> object:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    def install(value: object) -> None:
        registry._plug_in.cache_clear()
        monkeypatch.setattr(
            registry,
            "entry_points",
            lambda group, name="tiles": [_Entry("tiles", value)][: name == "tiles"],
        )

    yield install
    registry._plug_in.cache_clear()


def test_an_installed_package_adds_a_dataset(tmp_path: Path, plug_in: Callable[..., None]) -> None:
    for split in ("train", "test"):
        for label in ("a", "b"):
            path = tmp_path / "tiles" / split / label / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(path)
    tiles = dataclasses.replace(
        FORMATS["folder"],
        name="tiles",
        marks=("train",),
        folders=("tiles",),
        open=lambda opening: FolderSource(opening.find().parent, opening.options.seed),
    )
    plug_in(tiles)
    assert [one.format.name for one in available_datasets(tmp_path)][-1] == "tiles"
    assert len(open_dataset("tiles", tmp_path)) == 4


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (ImportError("no tiles"), "can't be loaded: no tiles"),
        (FORMATS["folder"], "must lead to a Format of the name 'tiles'"),
    ],
)
def test_an_entry_point_without_a_format_is_named(
    value: object, cause: str, plug_in: Callable[..., None]
) -> None:
    plug_in(value)
    with pytest.raises(DatasetError, match=rf"tiles = pack\.module:FORMAT .*{cause}"):
        available_datasets()
    # Other datasets do without it.
    with pytest.raises(DatasetNotFoundError):
        open_dataset("sat4", "nowhere")
