from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from featstore.datasets.registry import FORMATS, available_datasets, data_root, open_dataset
from featstore.errors import DatasetError, DatasetNotFoundError


def test_the_root_is_the_argument_then_the_environment_then_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATSTORE_DATA", str(tmp_path))
    assert data_root("x") == Path("x")
    assert data_root() == tmp_path
    monkeypatch.delenv("FEATSTORE_DATA")
    assert data_root() == Path("data")


def test_available_datasets_tells_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "sat4").mkdir()
    (tmp_path / "sat4" / "X_train_sat4.csv.gz").write_bytes(b"")
    (tmp_path / "UCMerced_LandUse" / "Images" / "forest").mkdir(parents=True)
    found = {one.format.name: one.found for one in available_datasets(tmp_path)}
    assert set(found) == {"sat4", "sat6", "ucmerced", "folder", "demo"}
    assert found["sat4"] == tmp_path / "sat4" / "X_train_sat4.csv.gz"
    assert found["sat6"] is None
    assert found["ucmerced"] == tmp_path / "UCMerced_LandUse" / "Images" / "forest"
    assert found["demo"] is None


@pytest.mark.parametrize("name", ["sat4", "sat6"])
def test_absent_files_are_told_with_place_and_cure(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetNotFoundError) as caught:
        open_dataset(name, tmp_path)
    message = str(caught.value)
    for part in (f"sat-{name[-1]}-full.mat", str(tmp_path / name), "csc.lsu.edu", "kaggle.com"):
        assert part in message
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        open_dataset(name, tmp_path / "absent")


def test_an_unknown_name_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="sat4, sat6, ucmerced, folder, demo"):
        open_dataset("sat5", tmp_path)


def test_every_format_says_what_it_needs_and_how_to_get_it() -> None:
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
