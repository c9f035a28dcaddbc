from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from makers import of_pixels
from PIL import Image

from featstore.datasets import registry
from featstore.datasets.base import FileDataset
from featstore.datasets.formats import named
from featstore.datasets.registry import open_dataset
from featstore.errors import ConfigError, DatasetError, DatasetNotFoundError
from featstore.extraction.extract import extract
from featstore.inference.source_images import Originals
from featstore.store.feature_store import open_store

BY_NAME = {one.name: one for one in named.DATASETS}


def plant(folder: Path, classes: list[str], n: int = 2, ending: str = ".jpg") -> Path:
    for i, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for j in range(n):
            path = folder / name / f"{name}_{j}{ending}"
            if ending == ".jpg":
                Image.new("RGB", (16, 16), (20 * i, 90 * j, 40)).save(path)
                continue
            size = {"count": 13, "height": 8, "width": 8, "dtype": "uint16"}
            with rasterio.open(
                path, "w", driver="GTiff", crs="EPSG:32633", transform=(10, 0, 0, 0, -10, 0), **size
            ) as raster:
                values = np.arange(13, dtype=np.uint16)[:, None, None] * 200 + i
                raster.write(np.broadcast_to(values, (13, 8, 8)))
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    """Let a dataset have two images of each class."""

    def shrink(name: str) -> named.Named:
        one = BY_NAME[name]
        classes = dict.fromkeys(one.classes, 2)
        entry = replace(one, classes=classes, n_images=2 * len(classes))
        monkeypatch.setitem(registry.FORMATS, name, named._format(entry))
        return entry

    return shrink


def test_the_numbers_are_those_of_the_papers() -> None:
    sizes = {name: (len(one.classes), one.n_images) for name, one in BY_NAME.items()}
    assert sizes == {
        "eurosat": (10, 27_000),
        "eurosat-ms": (10, 27_000),
        "resisc45": (45, 31_500),
        "aid": (30, 10_000),
        "rsscn7": (7, 2800),
        "patternnet": (38, 30_400),
        "whu-rs19": (19, 1005),
    }
    for one in named.DATASETS:
        assert list(one.classes) == sorted(one.classes) or one.name.startswith("eurosat")
        assert sum(one.classes.values()) in (one.n_images, 0)
        assert named._marks(one)


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "eurosat-ms"])
def test_a_dataset_is_found_in_its_folders_and_read(
    tmp_path: Path,
    small,
    name: str,  # noqa: ANN001
) -> None:
    entry = small(name)
    for i, folder in enumerate((*entry.folders, f"{name}/{entry.folders[0]}", name, ".")):
        root = tmp_path / str(i)
        plant(root / folder, list(entry.classes))
        dataset = open_dataset(name, root)
        assert (dataset.name, dataset.title, len(dataset)) == (name, name, entry.n_images)
        assert dataset.class_names == tuple(sorted(entry.classes))
        assert {int((dataset.splits == split).sum()) for split in (0, 1)} == {len(entry.classes)}
    assert dataset.identity()["dataset"] == name
    available = {one.format.name for one in registry.available_datasets(root) if one.found}
    assert available - {"folder", "eurosat-ms", "ucmerced"} == {name}


def test_a_wrong_number_of_images_is_told_by_class(tmp_path: Path, small) -> None:  # noqa: ANN001
    names = list(small("rsscn7").classes)
    images = plant(tmp_path / "RSSCN7", names)
    (images / "aGrass" / "aGrass_0.jpg").unlink()
    with pytest.raises(
        DatasetError, match=r"1 of aGrass \(expected 2\)\. Unpack .* --dataset fold"
    ):
        open_dataset("rsscn7", tmp_path).labels.tolist()
    (images / "aGrass" / "aGrass_0.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"holds aGrass/aGrass_0.png; the images .* with .jpg"):
        open_dataset("rsscn7", tmp_path).labels.tolist()
    (images / "gParking").rename(images / "parking")
    with pytest.raises(DatasetError, match="lacks gParking and has parking, which rsscn7 does not"):
        open_dataset("rsscn7", tmp_path).labels.tolist()


def test_where_only_the_whole_is_known_it_is_checked(tmp_path: Path) -> None:
    # A copy with class folders in lower case.
    plant(tmp_path / "WHU-RS19", [name.lower() for name in BY_NAME["whu-rs19"].classes], 1)
    with pytest.raises(DatasetError, match=r"holds 19 images \(expected 1,005\)"):
        open_dataset("whu-rs19", tmp_path).labels.tolist()


def test_an_absent_dataset_says_where_to_get_it(tmp_path: Path) -> None:
    for name, cure in (("aid", "captain-whu.github.io/AID"), ("resisc45", "datasets get resisc45")):
        with pytest.raises(DatasetNotFoundError, match=cure):
            open_dataset(name, tmp_path)


def test_the_13_bands_have_names(tmp_path: Path, small) -> None:  # noqa: ANN001
    small("eurosat-ms")
    plant(tmp_path / "EuroSAT_MS", list(named.EUROSAT), ending=".tif")
    store = open_store(tmp_path / "store")
    for bands in ("B04,B03,B02,B08", "red,green,blue,nir", "4,3,2,8"):
        options = {"bands": bands, "value_range": "0,3000", "dataset": "eurosat-ms"}
        made = extract(store=store, **of_pixels(tmp_path, **options))
        info = store.get(made.set_id).info
        assert info.dataset.bands == ("red", "green", "blue", "nir")
    (only,) = store.sets()
    picture = Originals(store, only.set_id).image(0)
    assert picture[0, 0].tolist() == [round(600 * 255 / 3000), round(400 * 255 / 3000), 17]
    options = {"bands": "B04,B8A", "value_range": "percentile:0,100", "dataset": "eurosat-ms"}
    made = extract(store=store, **of_pixels(tmp_path, **options))
    assert store.get(made.set_id).info.dataset.bands == ("red", "B8A")
    dataset = open_dataset("eurosat-ms", tmp_path)
    assert isinstance(dataset, FileDataset)
    every = dataset.read_as(registry.Reading(("all",), ((0, 3000),)))
    assert every.bands[:4] == ("B01", "blue", "green", "red")
    assert every.read(0).shape == (8, 8, 13)
    with pytest.raises(
        ConfigError, match=r"no band 'B14'; the bands are 1 \(B01\), 2 \(blue or B02"
    ):
        extract("pixelstats", "eurosat-ms", root=tmp_path, bands="B14", store=store)
    with pytest.raises(DatasetError, match=r"end with \.jpg"):
        open_dataset("eurosat", tmp_path / "EuroSAT_MS").labels.tolist()
