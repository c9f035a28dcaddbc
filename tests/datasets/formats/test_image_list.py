from __future__ import annotations

import pytest

from featstore.datasets.base import FileDataset
from featstore.datasets.decode import IMAGE_SUFFIXES
from featstore.datasets.formats.folder import FolderSource
from featstore.datasets.formats.image_list import UnlabelledSource, find_images
from featstore.errors import DatasetError, DatasetNotFoundError


def test_places_are_searched_in_order(images, tmp_path):
    first = images / "test" / "water" / "water00.png"
    found, left_out = find_images([first, images / "test" / "sand"])
    assert [p.name for p in found] == ["water00.png", "sand00.png", "sand01.png", "sand02.png"]
    assert left_out.lines() == []
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "none.png"):
        with pytest.raises(DatasetNotFoundError, match=place.name):
            find_images([place])


def test_what_is_left_out_is_counted(images):
    sand = images / "test" / "sand"
    for name in ("._sand00.png", "__MACOSX/sand00.png", ".cache/sand00.png", "@eaDir/sand00.png"):
        (sand / name).parent.mkdir(exist_ok=True)
        (sand / name).write_bytes(b"x")
    for name in ("notes.txt", "more.TXT"):
        (sand / name).touch()
    found, left_out = find_images([sand, sand])
    assert len(found) == 6
    assert left_out.endings == {".txt": 4, "hidden": 2}
    assert left_out.folders == {"__MACOSX": 2, ".cache": 2, "@eaDir": 2}
    assert left_out.lines() == [
        "Left out 6 files that are not of an image format: 4 .txt, 2 hidden.",
        "Left out 6 folders, hidden or of the system: 2 .cache, 2 @eaDir, 2 __MACOSX.",
    ]


def test_a_folder_of_other_files_says_what_it_holds(tmp_path):
    (tmp_path / "scene.heic").touch()
    with pytest.raises(DatasetNotFoundError, match=r"holds no image files\. Left out 1 .*1 \.heic"):
        find_images([tmp_path])


def test_linked_folders_are_searched(images, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    (new / "more").symlink_to(images / "test" / "sand")
    (new / "gone.png").symlink_to(tmp_path / "absent.png")
    found, _ = find_images([new])
    assert [path.relative_to(new).as_posix() for path in found] == [
        "gone.png",
        *(f"more/sand{i:02d}.png" for i in range(3)),
    ]
    (new / "round").symlink_to(new)
    with pytest.raises(DatasetError, match="link to a folder above it"):
        find_images([new])


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_images_of_every_ending_are_found_by_both(suffix, tmp_path):
    path = tmp_path / "a" / f"1{suffix.upper()}"
    path.parent.mkdir()
    path.touch()
    assert find_images([tmp_path])[0] == [path]
    assert FolderSource(tmp_path, 0).paths == [path]


def test_images_without_labels_are_a_dataset(images):
    dataset = FileDataset(UnlabelledSource(find_images([images / "test" / "sand"])[0]))
    assert dataset.labels.tolist() == [-1, -1, -1]
    assert dataset.sample_ids == [str(path) for path in dataset.paths]
    assert dataset.subset([1]).read(0).shape[2] == 3
