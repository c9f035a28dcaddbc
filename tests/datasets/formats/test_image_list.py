from __future__ import annotations

import pytest

from featstore.datasets.base import FileDataset
from featstore.datasets.formats.image_list import UnlabelledSource, find_images
from featstore.errors import DatasetNotFoundError


def test_places_are_searched_in_order(images, tmp_path):
    first = images / "test" / "water" / "water00.png"
    (images / "notes.txt").touch()
    found = find_images([first, images / "test" / "sand"])
    assert [p.name for p in found] == ["water00.png", "sand00.png", "sand01.png", "sand02.png"]
    # What macOS leaves beside images.
    for hidden in ("._sand00.png", "__MACOSX/sand00.png", ".cache/sand00.png"):
        path = images / "test" / "sand" / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert len(find_images([images / "test" / "sand"])) == 3
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "none.png"):
        with pytest.raises(DatasetNotFoundError, match=place.name):
            find_images([place])


def test_images_without_labels_are_a_dataset(images):
    dataset = FileDataset(UnlabelledSource(find_images([images / "test" / "sand"])))
    assert dataset.labels.tolist() == [-1, -1, -1]
    assert dataset.sample_ids == [str(path) for path in dataset.paths]
    assert dataset.subset([1]).read(0).shape[2] == 3
