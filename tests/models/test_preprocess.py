from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from featstore.models.preprocess import Preprocess
from featstore.models.weights import HALF, IMAGENET_MEAN, IMAGENET_STD

CPU = torch.device("cpu")
RGB = Preprocess(64, "rgb", IMAGENET_MEAN, IMAGENET_STD)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def one(preprocess, image):
    return preprocess([(np.array([0]), image[None])], 1, CPU)[0]


@pytest.mark.parametrize("size", [(28, 28), (64, 64), (100, 80), (256, 256), (33, 301)])
def test_it_is_pillows_resize_to_a_grey_level(size):
    image = noise(*size, 3)
    pillow = Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)
    ours = one(RGB, image).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - np.asarray(pillow)).max() <= 1


def test_near_infrared_is_dropped():
    image = noise(28, 28, 4)
    other = image.copy()
    other[..., 3] = 0
    torch.testing.assert_close(one(RGB, image), one(RGB, other), atol=0, rtol=0)


def test_gray_is_luminance_three_times():
    gray = Preprocess(28, "gray", IMAGENET_MEAN, IMAGENET_STD)
    image = noise(28, 28, 3)
    found = one(gray, image)
    assert torch.equal(found[0], found[1])
    expected = np.asarray(Image.fromarray(image).convert("L"))
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1.0)


def test_an_image_does_not_depend_on_its_neighbours():
    images = [noise(40, 40, 3, seed=1), noise(28, 28, 3, seed=2), noise(40, 40, 3, seed=3)]
    groups = [
        (np.array([0, 2]), np.stack([images[0], images[2]])),
        (np.array([1]), images[1][None]),
    ]
    batch = RGB(groups, 4, CPU)
    assert batch.shape == (4, 3, 64, 64)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for position, image in enumerate(images):
        assert torch.equal(batch[position], one(RGB, image))
    assert not batch[3].any()


def test_a_full_batch_of_one_size_is_laid_out_like_any_other():
    images = noise(4, 64, 64, 4)
    batch = RGB([(np.arange(4), images)], 4, CPU)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(batch.permute(0, 2, 3, 1).numpy(), images[..., :3])
    gray = Preprocess(64, "gray", IMAGENET_MEAN, IMAGENET_STD)([(np.arange(4), images)], 4, CPU)
    assert gray.shape == batch.shape
    assert gray.is_contiguous(memory_format=torch.channels_last)


def test_a_read_only_image_gives_the_same_and_no_warning():
    image = noise(80, 90, 3)
    expected = one(RGB, image)
    image.flags.writeable = False
    assert torch.equal(one(RGB, image), expected)


def test_settings_survive_a_round_trip():
    preprocess = Preprocess(227, "gray", HALF, HALF)
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
