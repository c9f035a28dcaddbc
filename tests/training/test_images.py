from types import SimpleNamespace

import numpy as np
import pytest
import torch

from featstore.errors import TrainError
from featstore.training import images
from featstore.training.images import (
    augment,
    band_statistics,
    choose_rows,
    draw_batches,
    draw_triplet_batches,
    read_images,
)


def dataset(labels, splits=None, groups=None, task="classification", names="abc"):
    labels = np.array(labels, np.int32)
    return SimpleNamespace(
        title="mine",
        task=task,
        labels=labels,
        splits=np.zeros(len(labels), np.uint8) if splits is None else np.array(splits, np.uint8),
        class_names=tuple(names),
        sample_ids=[f"image{i}" for i in range(len(labels))],
        groups=None if groups is None else np.array(groups, np.int32),
    )


def test_a_tenth_of_each_class_is_held_out_and_test_rows_are_not_used():
    given = dataset([0] * 50 + [1] * 20 + [2] * 4 + [0] * 6, splits=[0] * 74 + [1] * 6)
    found = choose_rows(given, 0)
    assert found.rows.tolist() == list(range(74))
    assert np.bincount(found.y[~found.is_fit]).tolist() == [5, 2, 1]
    assert (choose_rows(given, 1).is_fit != found.is_fit).any()
    assert (choose_rows(given, 0).is_fit == found.is_fit).all()


def test_classes_without_training_images_are_left_out():
    found = choose_rows(dataset([0, 0, 2, 2, -1, 1], splits=[0] * 5 + [1]), 0)
    assert found.class_names == ("a", "c")
    assert found.y.tolist() == [0, 0, 1, 1]
    assert found.rows.tolist() == [0, 1, 2, 3]


def test_whole_groups_are_held_out():
    groups = np.repeat(np.arange(12), 5)
    found = choose_rows(dataset(np.arange(60) % 3, groups=groups), 0)
    assert not set(groups[found.is_fit]) & set(groups[~found.is_fit])
    assert 5 <= (~found.is_fit).sum() <= 15


@pytest.mark.parametrize(
    ("given", "n_needed", "message"),
    [
        (dataset([0] * 9), 1, "has 9 training images, all of the class a; a network needs two"),
        (dataset([0, 0], splits=[1, 1]), 1, "has 0 training images, none with a class"),
        (dataset([0] * 9 + [1]), 1, "fewer than 2 training images, and one of each is held out: b"),
        (dataset([0] * 9 + [2] * 2), 2, "fewer than 3 training images, and one of each .* out: c"),
        (dataset([0, 1], task="regression"), 1, "mine has labels of regression"),
        (dataset([0, 0, 1, 1], groups=[0] * 4), 1, "The 1 groups of training images are too few"),
        (
            dataset([0] * 8 + [1] * 4, groups=[*range(8), 8, 8, 9, 9]),
            3,
            "The groups leave fewer than 3 images to learn b from",
        ),
    ],
)
def test_images_that_teach_nothing_are_refused(given, n_needed, message):
    with pytest.raises(TrainError, match=message):
        choose_rows(given, 0, n_needed)


def test_images_that_memory_can_not_hold_are_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr(
        images.psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * 10**6)
    )
    preprocess = SimpleNamespace(image_size=1000, mean=(0, 0))
    with pytest.raises(TrainError, match=r"1 images of 1000 px and 2 bands are 2.* they may take"):
        read_images(None, np.arange(1), preprocess)


def test_band_statistics_are_those_of_the_chosen_images():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 2, 4, 4), np.uint8))
    pixels[:, 1] = 7
    chosen = torch.tensor([1, 5, 8])
    (mean, constant), (deviation, floor) = band_statistics(pixels, chosen)
    own = pixels[chosen, 0].double() / 255
    assert mean == pytest.approx(float(own.mean()))
    assert deviation == pytest.approx(float(own.std(correction=0)))
    assert (constant, floor) == (pytest.approx(7 / 255), pytest.approx(1 / 255))


def test_augmentation_gives_the_eight_symmetries_of_a_square():
    image = torch.arange(9).view(1, 1, 3, 3)
    found = augment(image.expand(8, 1, 3, 3).contiguous(), torch.arange(8))
    assert torch.equal(found[0], image[0])
    assert len({tuple(one.flatten().tolist()) for one in found}) == 8
    assert all(one[0, 1, 1] == 4 for one in found)
    assert torch.equal(found[1, 0], torch.rot90(image[0, 0], 1))


def test_an_epoch_gives_each_image_once():
    drawn = draw_batches(10, 3, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in drawn] == [3, 3, 3]
    assert len(set(torch.cat(list(drawn)).tolist())) == 9


def test_batches_of_triplets_hold_several_images_of_several_classes():
    y = torch.tensor([0] * 20 + [1] * 20 + [2] * 2)
    drawn = draw_triplet_batches(y, 2, 4, torch.Generator().manual_seed(0))
    assert len(drawn) == 42 // 8
    for batch in drawn:
        _, counts = torch.unique(y[batch], return_counts=True)
        assert counts.tolist() == [4, 4]
        full = batch[y[batch] < 2].tolist()
        assert len(set(full)) == len(full)
