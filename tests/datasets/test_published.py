from __future__ import annotations

from pathlib import Path

import pytest
from makers import Listener, of_pixels, write_images
from PIL import Image

from featstore.config import DatasetOptions
from featstore.datasets.registry import open_dataset
from featstore.errors import ConfigError, DatasetError, DatasetNotFoundError
from featstore.extraction.extract import extract
from featstore.inference.source_images import Originals
from featstore.store.feature_store import open_store


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    for name in ("beach/1.png", "beach/2.png", "beach/3.png", "lake/1.png", "lake/2.jpg"):
        path = tmp_path / "tiles" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 9 * int(path.stem), 0)).save(path)
    return tmp_path / "tiles"


def write_lists(folder: Path, *contents: str) -> tuple[str, ...]:
    paths = [folder / f"{name}.txt" for name in ("train", "test", "val")[: len(contents)]]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content, encoding="utf-8")
    return tuple(map(str, paths))


def test_lists_name_the_images_of_each_split(tiles: Path) -> None:
    lists = write_lists(
        tiles.parent,
        "\ufeff# the training images\n\nbeach/1.png\r\n./beach/3\n",
        "some/where/tiles/lake/1.png\n",
        "2.jpg\n",
    )
    dataset = open_dataset(str(tiles), split_files=lists)
    assert list(dataset.sample_ids) == ["beach/1.png", "beach/3.png", "lake/1.png", "lake/2.jpg"]
    assert dataset.splits.tolist() == [0, 0, 1, 2]
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.left_out.lines() == [
        "Left out 1 image that no list of the published split names."
    ]
    assert [name for name, _ in dataset.files()] == list(dataset.sample_ids)
    assert "split" not in dataset.identity()


@pytest.mark.parametrize(
    ("train", "test", "wrong"),
    [
        ("beach/1\nlake/9.png\n", "lake/1", r"train.txt, line 2: tiles has no image 'lake/9.png'"),
        ("beach/3", "1.png", r"test.txt, line 1: '1.png' may be beach/1.png, lake/1.png. Add the"),
        (
            "beach/1\n2.jpg",
            "a\n".replace("a", "beach/1.png"),
            r"test.txt, line 1.*train.txt, line 1",
        ),
        ("beach/1\nbeach/1.png", "lake/1", r"train.txt, line 2: .*train.txt, line 1 names too"),
        ("# none\n", "lake/1", "train.txt: names no images"),
    ],
)
def test_a_name_that_does_not_fit_is_told_with_its_line(
    tiles: Path, train: str, test: str, wrong: str
) -> None:
    lists = write_lists(tiles.parent, train, test)
    with pytest.raises(DatasetError, match=wrong):
        open_dataset(str(tiles), split_files=lists).splits.tolist()


def test_lists_that_can_not_be_used_are_refused(tiles: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="split_files names 1; give two or three"):
        DatasetOptions(split_files=("train.txt",))
    with pytest.raises(DatasetNotFoundError, match=r"none.txt: the list can't be read: No such"):
        open_dataset(str(tiles), split_files=("none.txt", "test.txt"))
    with pytest.raises(ConfigError, match="demo has no image files: leave out --splits"):
        open_dataset("demo", tmp_path, split_files=write_lists(tmp_path, "a", "b"))


def test_other_lists_make_another_set_that_keeps_its_split(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, listener = open_store(tmp_path / "store"), Listener()
    monkeypatch.chdir(tmp_path)
    write_lists(tmp_path, "beach/1\nlake/1\n", "beach/2\nlake/2\n")
    options = of_pixels(tiles, store=store, split_files="train.txt,test.txt")
    made = extract(**options)
    assert (made.split, made.n_by_split) == ("published split", {"train": 2, "test": 2})
    assert made.left_out.n_unlisted == 1
    assert "--splits train.txt,test.txt" in store.get(made.set_id).info.command
    assert store.select().has_official_split
    assert store.select().split_text(is_drawn=True) == "random split"
    # Comments, and the names' order, count for nothing; the place of the lists neither.
    write_lists(tmp_path, "# first\nlake/1\nbeach/1\n", "lake/2\nbeach/2\n")
    assert extract(**options, progress=listener).n_computed == 0
    monkeypatch.chdir("/")
    assert Originals(store, made.set_id).image(3).shape == (8, 8, 3)
    monkeypatch.chdir(tmp_path)
    write_lists(tmp_path, "beach/1\nlake/2\n", "beach/2\nlake/1\n")
    assert extract(**options).set_id != made.set_id
    assert extract(**of_pixels(tiles, store=store)).split == "random split"
    whole = write_images(tmp_path / "whole", n=2, size=8)
    assert extract(**of_pixels(whole, store=store)).split == "official split"
