from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from makers import of_pixels
from PIL import Image

from featstore.config import DatasetOptions
from featstore.datasets.drawing import draw_groups, draw_split_of_groups
from featstore.datasets.registry import open_dataset
from featstore.errors import ConfigError, DatasetError
from featstore.extraction.extract import extract
from featstore.inference.source_images import Originals
from featstore.store.feature_store import open_store


def plant(folder: Path, n_scenes: int = 6, *, splits: tuple[str, ...] = ("",)) -> Path:
    """Write images of two classes, 4 of each scene in each class: CLASS/SCENE_NUMBER.png."""
    for i in range(n_scenes * 8):
        scene, number, label = i // 8, i % 4, ("field", "town")[i // 4 % 2]
        path = folder / splits[i % len(splits)] / label / f"s{scene}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 7 * scene, number)).save(path)
    return folder


def sides(groups: np.ndarray | None, splits: np.ndarray) -> list[set[int]]:
    assert groups is not None
    return [set(splits[groups == group].tolist()) for group in np.unique(groups)]


def test_a_part_of_the_name_is_the_group(tmp_path: Path) -> None:
    tiles = plant(tmp_path / "tiles")
    dataset = open_dataset(str(tiles), groups_from=r"regex:/(s\d)_")
    assert dataset.group_by == r"regex /(s\d)_"
    assert dataset.groups is not None
    names = [Path(name).name[:2] for name in dataset.sample_ids]
    assert dataset.groups.tolist() == [int(name[1]) for name in names]
    assert sorted(map(tuple, sides(dataset.groups, dataset.splits))) == [(0,)] * 4 + [(1,)] * 2
    assert dataset.notes[-1] == r"Grouped by regex /(s\d)_; images of each of 6 groups: 8."
    whole = open_dataset(str(tiles), groups_from=r"regex:s\d")
    assert whole.groups is not None
    assert whole.groups.tolist() == dataset.groups.tolist()
    other = open_dataset(str(tiles), groups_from=r"regex:/(s\d)_", seed=3)
    assert (other.splits != dataset.splits).any()
    assert other.identity() != dataset.identity() != open_dataset(str(tiles)).identity()


def test_a_name_without_a_group_is_told(tmp_path: Path) -> None:
    tiles = plant(tmp_path / "tiles")
    with pytest.raises(DatasetError, match=r"the image field/s0_0.png has no group by regex s1"):
        open_dataset(str(tiles), groups_from="regex:s1").splits.tolist()
    with pytest.raises(DatasetError, match=r"can't be divided .* there is 1 group. Choose smaller"):
        open_dataset(str(tiles), groups_from="regex:s").splits.tolist()


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("regex:(", "no regular expression"),
        ("regex:", "give a column, regex:PATTERN, or grid:SIZE"),
        ("grid:-3", "the size of the grid must be above 0"),
        ("grid:x", "the size of the grid must be above 0"),
    ],
)
def test_a_wrong_rule_is_refused(rule: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        DatasetOptions(groups_from=rule)


def test_a_column_is_for_tables(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="folder has no columns, so that groups_from can't be 'sc"
    ):
        open_dataset(str(plant(tmp_path / "tiles")), groups_from="scene")


def write_chip(path: Path, x: float, y: float, crs: str = "EPSG:32633") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    where = {"crs": crs, "transform": rasterio.Affine(10, 0, x, 0, -10, y)}
    size = {"count": 3, "height": 8, "width": 8, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, **where) as raster:
        raster.write(np.full((3, 8, 8), int(x) % 250, np.uint8))


def test_chips_are_grouped_by_the_cell_that_holds_their_centre(tmp_path: Path) -> None:
    # Chips of 80 m. On a grid of 1,000 m, the centre of the second is in the next cell.
    for name, x in (("a/0", 900), ("b/1", 965), ("a/2", 1500), ("b/3", 2400), ("a/4", 2700)):
        write_chip(tmp_path / "chips" / f"{name}.tif", x, 500)
    write_chip(tmp_path / "chips" / "b" / "5.tif", 900, 500, "EPSG:32634")
    dataset = open_dataset(str(tmp_path / "chips"), groups_from="grid:1000")
    of_image = dict(zip(dataset.sample_ids, dataset.groups.tolist(), strict=True))
    assert of_image["b/1.tif"] == of_image["a/2.tif"]
    assert of_image["b/3.tif"] == of_image["a/4.tif"]
    assert len(set(of_image.values())) == 4
    assert dataset.group_by == "a grid of 1000"
    Image.new("RGB", (8, 8)).save(tmp_path / "chips" / "b" / "6.png")
    with pytest.raises(DatasetError, match=r"6.png: has no place on a map .*no cell of a grid"):
        open_dataset(str(tmp_path / "chips"), groups_from="grid:1000").splits.tolist()


def test_groups_are_stored_and_an_official_split_that_cuts_them_is_told(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    tiles = plant(tmp_path / "tiles")
    rule = {"groups_from": r"regex:/(s\d)_"}
    made = extract(store=store, **of_pixels(tiles, **rule))
    assert (made.split, made.n_cut_groups) == (r"grouped by regex /(s\d)_", 0)
    selection = store.select()
    assert selection.groups is not None
    assert sorted(map(tuple, sides(selection.groups, selection.splits))) == [(0,)] * 4 + [(1,)] * 2
    assert Originals(store, made.set_id).image(2).shape == (8, 8, 3)
    official = plant(tmp_path / "official", splits=("train", "train", "test"))
    cut = extract(store=store, **of_pixels(official, **rule))
    assert (cut.split, cut.n_cut_groups) == ("official split", 6)


@pytest.mark.parametrize("seed", range(4))
def test_drawn_groups_keep_the_shares_of_the_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(120), rng.integers(1, 20, 120)).astype(np.int32)
    for labels in (rng.integers(0, 4, len(groups)), groups % 4):
        names = [f"g{i}" for i in range(120)]
        splits = draw_split_of_groups(labels, groups, names, seed, "column g")
        assert {len(side) for side in sides(groups, splits)} == {1}
        shares = [(splits[labels == label] == 0).mean() for label in range(4)]
        assert np.abs(np.array(shares) - 0.7).max() < 0.06


def test_a_class_of_one_group_is_trained_on() -> None:
    groups = np.repeat(np.arange(5, dtype=np.int32), 4)
    labels = np.where(groups == 3, 1, 0)
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(5).tolist()
        drawn = draw_groups(labels, groups, order, 0.5)
        assert drawn[labels == 1].all()
        assert 0 < drawn.sum() < 20
