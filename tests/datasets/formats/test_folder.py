"""Folder trees, and UC Merced's, of images written by Pillow."""

from __future__ import annotations

import locale
import os
import unicodedata
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featstore.datasets.drawing import draw_split
from featstore.datasets.formats.folder import FolderSource
from featstore.datasets.formats.ucmerced import CLASSES
from featstore.datasets.registry import FileDataset, open_dataset
from featstore.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageError


def plant(root: Path, *names: str, size: tuple[int, int] = (6, 5)) -> Path:
    """Write an image under each name, of its own color."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((*size, 3), (7 * i) % 256, np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def open_folder(root: Path, seed: int = 0, limit: int | None = None) -> FileDataset:
    dataset = open_dataset("folder", root, seed=seed, limit=limit)
    assert isinstance(dataset, FileDataset)
    return dataset


def test_class_folders_become_classes_in_code_point_order(tmp_path: Path) -> None:
    names = ["b/2.png", "b/10.png", "B/1.PNG", "a/x/y.jpg", "ä/1.png", "a-b/1.tif"]
    dataset = open_folder(plant(tmp_path / "my images", *names))
    assert dataset.name == "folder"
    assert dataset.title == "my images"
    assert dataset.bands == ("red", "green", "blue")
    assert dataset.class_names == ("B", "a", "a-b", "b", "ä")
    assert list(dataset.sample_ids) == sorted(names)
    assert dataset.labels.dtype == np.int32
    assert [dataset.class_names[label] for label in dataset.labels] == [
        name.split("/")[0] for name in sorted(names)
    ]
    assert dataset.files() == [(n, f"{tmp_path}/my images/{n}") for n in sorted(names)]


def test_order_depends_on_neither_locale_nor_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "a/Z.png", "a/b.png", "a/é.png", "a/z.png", "b/1.png")
    expected = list(open_folder(tmp_path).sample_ids)
    monkeypatch.setattr(locale, "strcoll", lambda a, b: -1)
    scandir = os.scandir

    @contextmanager
    def reversed_scandir(folder: str):
        with scandir(folder) as entries:
            yield list(entries)[::-1]

    monkeypatch.setattr(os, "scandir", reversed_scandir)
    assert list(open_folder(tmp_path).sample_ids) == expected == [
        "a/Z.png",
        "a/b.png",
        "a/z.png",
        "a/é.png",
        "b/1.png",
    ]  # fmt: skip


def test_names_are_the_same_however_the_file_system_composes_letters(tmp_path: Path) -> None:
    composed = plant(tmp_path / "nfc", unicodedata.normalize("NFC", "prés/café.png"))
    decomposed = plant(tmp_path / "nfd", unicodedata.normalize("NFD", "prés/café.png"))
    a, b = open_folder(composed), open_folder(decomposed)
    assert list(a.sample_ids) == list(b.sample_ids)
    assert a.class_names == b.class_names
    assert b.read(0).shape == (6, 5, 3)


def test_two_names_that_differ_only_in_composition_are_refused(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        plant(tmp_path, "a/" + unicodedata.normalize(form, "é.png"))
    with pytest.raises(DatasetError, match="two files are named"):
        _ = open_folder(tmp_path).labels


def test_split_folders_decide_the_split(tmp_path: Path) -> None:
    dataset = open_folder(
        plant(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "val/b/1.png"), seed=3
    )
    assert dataset.class_names == ("a", "b")
    assert list(dataset.sample_ids) == [
        "test/a/1.png",
        "train/a/1.png",
        "train/b/1.png",
        "val/b/1.png",
    ]
    assert dataset.splits.tolist() == [1, 0, 0, 2]
    assert dataset.splits.dtype == np.uint8
    assert "split" not in dataset.identity()


def test_classes_are_those_of_all_splits(tmp_path: Path) -> None:
    dataset = open_folder(plant(tmp_path, "train/a/1.png", "train/c/1.png", "test/b/1.png"))
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.labels.tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.png", "test/a/1.png", "forest/1.png"], r"beside other folders \(forest\)"),
        (["test/a/1.png"], "no train folder"),
        (["Dev/a/1.png", "TEST/a/1.png"], "no train folder"),
        (["train/a/1.png", "Training/a/1.png"], "Training, train both mean the split train"),
        (["train/a/1.png", "test/1.png"], "test holds no class folders, and train does"),
        (
            ["a/train/1.png", "a/test/1.png", "b/train/2.png"],
            "hold splits. .* Put such folders above",
        ),
        (["Train/1.png", "Test/1.png"], "are Test, Train splits or classes"),
        (["images_train/1.png", "images_test/1.png"], "splits or classes. .*rename classes"),
        (["train/1.png", "test/1.png", "bus/1.png"], "are test, train splits or classes"),
        (["train/1.png", "train/2.png"], "are train splits or classes"),
    ],
)
def test_ambiguous_trees_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    plant(tmp_path, *names)
    with pytest.raises(DatasetError, match=message):
        _ = open_folder(tmp_path).labels


@pytest.mark.parametrize(
    ("train", "test", "val"),
    [
        ("images_train", "images_test", "images_val"),
        ("trainset", "testset", "valset"),
        ("Train", "Test", "Valid"),
        ("TRAIN", "TEST", "VALIDATION"),
        ("training", "testing", "validation"),
        ("train", "test", "dev"),
        ("train_images", "test-images", "valid.images"),
        ("train2017", "test2017", "val2017"),
        ("NWPU_train", "NWPU_test", "NWPU_val"),
    ],
)
def test_splits_are_known_however_they_are_spelled(
    tmp_path: Path, train: str, test: str, val: str
) -> None:
    names = [f"{folder}/{name}.png" for folder in (train, test, val) for name in ("a/1", "b/1")]
    dataset = open_folder(plant(tmp_path, *names))
    assert dataset.class_names == ("a", "b")
    splits = dict(zip(dataset.sample_ids, dataset.splits.tolist(), strict=True))
    assert [splits[name] for name in names] == [0, 0, 1, 1, 2, 2]
    assert "split" not in dataset.identity()


def test_training_and_validation_alone_are_splits(tmp_path: Path) -> None:
    dataset = open_folder(plant(tmp_path, "training/a/1.png", "validation/a/1.png"))
    assert (dataset.class_names, dataset.splits.tolist()) == (("a",), [0, 2])


@pytest.mark.parametrize("inner", ["", "train/"])
def test_a_folder_around_the_classes_is_seen_through(tmp_path: Path, inner: str) -> None:
    top = f"UCMerced_LandUse/Images/{inner}"
    plant(tmp_path / "root", f"{top}beach/1.png", f"{top}forest/1.png", "preview.png")
    (tmp_path / "root" / "UCMerced_LandUse" / "readme.txt").write_text("x")
    dataset = open_folder(tmp_path / "root")
    assert dataset.class_names == ("beach", "forest")
    assert list(dataset.sample_ids) == [f"{inner}beach/1.png", f"{inner}forest/1.png"]
    (note,) = dataset.notes
    assert str(tmp_path / "root" / "UCMerced_LandUse" / "Images") in note
    assert dataset.left_out.n_outside == 1
    assert dataset.left_out.endings == {".txt": 1}
    direct = open_folder(tmp_path / "root" / "UCMerced_LandUse" / "Images")
    assert list(direct.sample_ids) == list(dataset.sample_ids)
    assert direct.identity() == dataset.identity()
    assert direct.notes == []


def test_folders_around_the_classes_of_each_split_are_seen_through(tmp_path: Path) -> None:
    names = ["train/Images/a/1.png", "train/Images/b/1.png", "test/Images/a/1.png"]
    plant(tmp_path, *names, "test/Images/b/1.png")
    dataset = open_folder(tmp_path)
    assert dataset.class_names == ("a", "b")
    assert list(dataset.sample_ids)[:1] == ["test/Images/a/1.png"]
    assert dataset.splits.tolist() == [1, 1, 0, 0]
    assert [
        str(tmp_path / s / "Images") in n
        for s, n in zip(("test", "train"), dataset.notes, strict=True)
    ]


def test_classes_that_all_hold_the_same_folders_are_doubted(tmp_path: Path) -> None:
    plant(tmp_path, "rgb/a/1.png", "rgb/b/1.png", "nir/a/1.png", "nir/b/1.png")
    dataset = open_folder(tmp_path)
    assert dataset.class_names == ("nir", "rgb")
    (note,) = dataset.notes
    assert (
        f"each holds the folders a, b. If those are the classes, give one folder, e.g. {tmp_path}"
        in note
    )
    plant(tmp_path, "rgb/2.png")
    assert open_folder(tmp_path).notes == []


@pytest.mark.parametrize("names", [["a/1.png"], ["a/x/1.png"], ["a/1.png", "a/x/1.png"]])
def test_a_single_class_stays_a_class(tmp_path: Path, names: list[str]) -> None:
    dataset = open_folder(plant(tmp_path, *names))
    assert dataset.class_names == ("a",)
    assert list(dataset.sample_ids) == sorted(names)


def test_a_flat_folder_holds_images_without_labels(tmp_path: Path) -> None:
    plant(tmp_path, "1.png", "2.png", "@eaDir/1.png")
    dataset = open_folder(tmp_path)
    assert dataset.class_names == ()
    assert list(dataset.sample_ids) == ["1.png", "2.png"]
    assert dataset.labels.tolist() == [-1, -1]
    assert dataset.splits.tolist() == [0, 0]
    assert "have no labels" in dataset.notes[0]


def test_a_root_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"holds no images .*expected ROOT.* 1 \.txt\."):
        _ = open_folder(tmp_path).labels


def test_a_class_may_be_named_train(tmp_path: Path) -> None:
    assert open_folder(plant(tmp_path, "train/1.png", "bus/1.png")).class_names == ("bus", "train")


def test_without_split_folders_each_class_is_split_70_to_30(tmp_path: Path) -> None:
    names = [
        f"{c}/{i:03d}.png" for c, n in (("a", 10), ("b", 20), ("c", 2), ("d", 1)) for i in range(n)
    ]
    plant(tmp_path, *names)
    dataset = open_folder(tmp_path)
    counts = [
        np.bincount(dataset.splits[dataset.labels == label], minlength=2).tolist()
        for label in range(4)
    ]
    assert counts == [[7, 3], [14, 6], [1, 1], [1, 0]]
    again, other = open_folder(tmp_path), open_folder(tmp_path, seed=1)
    np.testing.assert_array_equal(again.splits, dataset.splits)
    assert (other.splits != dataset.splits).any()
    assert again.identity() == dataset.identity() != other.identity()


def test_the_drawn_split_never_changes() -> None:
    """Features are stored with it; these values are from the first release."""
    ids = [f"a/{i}.png" for i in range(10)]
    assert draw_split(ids, np.zeros(10, np.int32), 0).tolist() == [
        0, 0, 1, 1, 0, 0, 0, 1, 0, 0
    ]  # fmt: skip


def test_another_class_does_not_change_a_classs_split() -> None:
    ids = [f"a/{i}.png" for i in range(10)]
    alone = draw_split(ids, np.zeros(10, np.int32), 5)
    both = draw_split(ids + [f"b/{i}.png" for i in range(9)], np.repeat([0, 1], [10, 9]), 5)
    np.testing.assert_array_equal(both[:10], alone)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/1.png", "a/.2.png", "loose.png")
    ignored = ("__MACOSX", ".cache", "a/@eaDir", "b/@eaDir", "#recycle", "$RECYCLE.BIN", "@Recycle")
    ignored += ("System Volume Information", ".ipynb_checkpoints", "lost+found")
    plant(tmp_path, *(f"{folder}/1.png" for folder in ignored))
    (tmp_path / "a" / "Thumbs.db").write_text("x")
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "b" / "README").write_text("x")
    dataset = open_folder(tmp_path)
    assert list(dataset.sample_ids) == ["a/1.png", "b/1.png"]
    left_out = dataset.left_out
    assert left_out.endings == {".db": 1, ".txt": 1, "hidden": 1, "without ending": 1}
    assert left_out.n_outside == 1
    assert left_out.folders["@eaDir"] == 2
    assert left_out.folders.total() == len(ignored)
    assert left_out.lines()[1] == "Left out 1 image outside the class folders."
    assert left_out.to_dict()["n_files"] == 5
    assert open_folder(plant(tmp_path / "tidy", "a/1.png")).left_out.lines() == []


def test_an_empty_class_is_an_error_that_names_it(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("x")
    with pytest.raises(
        DatasetError, match=r"class folder b holds no images \(.*\); add some or remove it"
    ):
        _ = open_folder(tmp_path).class_names


def test_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    elsewhere = plant(tmp_path / "elsewhere", "1.png", "c/2.png")
    for number, target in enumerate(
        (elsewhere / "1.png", elsewhere / "c", elsewhere / "absent.png")
    ):
        root = plant(tmp_path / f"root{number}", "a/1.png", "b/1.png")
        (root / "a" / "link.png").symlink_to(target)
        with pytest.raises(DatasetError, match=r"is a link out of .*--follow-links"):
            _ = open_folder(root).labels


def test_links_out_of_the_root_are_read_when_that_is_asked_for(tmp_path: Path) -> None:
    """As in Hugging Face snapshots, whose files are links to blobs without endings."""
    blob = plant(tmp_path / "blobs", "1.png") / "1.png"
    blob.rename(tmp_path / "blobs" / "0a1b")
    plant(tmp_path / "far", "2.png")
    root = plant(tmp_path / "root", "b/1.png")
    (root / "a").mkdir()
    (root / "a" / "1.png").symlink_to("../../blobs/0a1b")
    (root / "c").symlink_to(tmp_path / "far")
    dataset = open_dataset("folder", root, follow_links=True)
    assert list(dataset.sample_ids) == ["a/1.png", "b/1.png", "c/2.png"]
    assert [dataset.read(row).shape for row in range(3)] == [(6, 5, 3)] * 3
    (tmp_path / "far" / "round").symlink_to(tmp_path)
    with pytest.raises(DatasetError, match="is a link to a folder above it"):
        _ = open_dataset("folder", root, follow_links=True).labels


def test_links_to_files_that_are_not_fetched_are_counted(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", "a/1.png")
    for name in ("2.png", "3.png"):
        (root / "a" / name).symlink_to(tmp_path / "absent" / name)
    with pytest.raises(DatasetError, match=r"does not exist \(links of this kind: 2\).*git annex"):
        _ = open_dataset("folder", root, follow_links=True).labels


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_pipes_are_named_and_never_read(tmp_path: Path) -> None:
    root = plant(tmp_path, "a/1.png", "b/deep/1.png")
    os.mkfifo(root / "b" / "deep" / "notes.txt")
    source = FolderSource(root, 0)
    assert (len(source.labels), source.left_out.endings) == (2, {".txt": 1})
    os.mkfifo(root / "b" / "deep" / "2.png")
    with pytest.raises(DatasetError, match=r"b/deep/2\.png: is a pipe, socket or device"):
        _ = open_folder(root).labels


def test_links_within_the_root_are_followed_but_for_loops(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/deep/1.png")
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "more").symlink_to(tmp_path / "b" / "deep")
    assert list(open_folder(tmp_path).sample_ids) == [
        "a/1.png",
        "a/2.png",
        "a/more/1.png",
        "b/deep/1.png",
    ]
    (tmp_path / "b" / "deep" / "round").symlink_to(tmp_path / "b")
    with pytest.raises(DatasetError, match="link to a folder above it"):
        _ = open_folder(tmp_path).labels


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "a" / "absent.png")
    with pytest.raises(DatasetError, match="does not exist"):
        _ = open_folder(tmp_path).labels


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    plant(tmp_path / "real", "a/1.png", "b/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert len(open_folder(tmp_path / "link")) == 2


def test_a_name_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png")
    try:
        (tmp_path / "a" / "b\udcff.png").write_bytes(b"x")
    except (OSError, UnicodeError):
        pytest.skip("the file system takes only Unicode")
    with pytest.raises(DatasetError, match="not valid Unicode"):
        _ = open_folder(tmp_path).labels


def test_reading_subsets_and_limits(tmp_path: Path) -> None:
    names = [f"{c}/{i:02d}.png" for c in "ab" for i in range(20)]
    plant(tmp_path, *names)
    dataset = open_folder(tmp_path, limit=12)
    assert len(dataset) == 12
    assert set(zip(dataset.labels.tolist(), dataset.splits.tolist(), strict=True)) == {
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    }
    for row, name in enumerate(dataset.sample_ids):
        assert dataset.paths[row] == tmp_path / name
        assert dataset.read(row)[0, 0, 0] == 7 * names.index(name) % 256
    some = dataset.subset(np.array([1, 5]))
    assert some.paths == [dataset.paths[1], dataset.paths[5]]
    assert [n for n, _ in some.files()] == names


def test_a_broken_image_is_found_when_it_is_read(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "2.png").write_bytes(b"")
    dataset = open_folder(tmp_path)
    with pytest.raises(ImageError, match=r"2\.png: is empty"):
        dataset.read(1)


def test_the_root_must_be_given_and_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --root"):
        open_dataset("folder")
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        open_dataset("folder", tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetNotFoundError, match="is a file"):
        open_dataset("folder", tmp_path / "file")


def test_opening_lists_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "a/1.png")
    dataset = open_folder(tmp_path)
    assert isinstance(dataset._source, FolderSource)
    assert "_tree" not in dataset._source.__dict__


# UC Merced


def plant_ucmerced(images: Path, n: int = 10) -> Path:
    plant(images, *(f"{c}/{c}{i:02d}.tif" for c in CLASSES for i in range(n)), size=(25, 26))
    Image.new("RGB", (27, 24)).save(images / "forest" / "forest03.tif")
    return images


@pytest.mark.parametrize(
    "where", ["UCMerced_LandUse/Images", "ucmerced/UCMerced_LandUse/Images", "Images", "."]
)
def test_ucmerced_is_found_and_split_per_class(tmp_path: Path, where: str) -> None:
    plant_ucmerced(tmp_path / where)
    dataset = open_dataset("ucmerced", tmp_path)
    assert (dataset.name, dataset.title) == ("ucmerced", "ucmerced")
    assert dataset.class_names == CLASSES
    assert dataset.sample_ids[0] == "agricultural/agricultural00.tif"
    table = np.zeros((21, 2), int)
    np.add.at(table, (dataset.labels, dataset.splits), 1)
    assert (table == [7, 3]).all()
    odd = dataset.sample_ids.index("forest/forest03.tif")
    assert dataset.read(odd).shape == (24, 27, 3)
    assert dataset.identity() == open_dataset("ucmerced", tmp_path).identity()
    assert dataset.identity() != open_dataset("ucmerced", tmp_path, seed=1).identity()


def test_missing_or_extra_classes_of_ucmerced_are_named(tmp_path: Path) -> None:
    images = plant_ucmerced(tmp_path / "UCMerced_LandUse" / "Images", n=1)
    (images / "river").rename(images / "rivers")
    with pytest.raises(
        DatasetError, match="lacks river and has rivers, which ucmerced does not have"
    ):
        _ = open_dataset("ucmerced", tmp_path).labels


def test_an_absent_ucmerced_names_its_folders_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError) as caught:
        open_dataset("ucmerced", tmp_path)
    for part in ("UCMerced_LandUse/Images", str(tmp_path), "featstore datasets get ucmerced"):
        assert part in str(caught.value)
