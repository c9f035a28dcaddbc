"""Resize images of any size to the network's square of pixels, on the device.

Pixels stay bytes: a batch of bytes is a quarter of its size as floats, and a SAT image travels to
a GPU as 3 kB. Normalisation is the network's first operation (:mod:`featstore.models.backbone`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luminance: ITU-R BT.601, as in MATLAB's rgb2gray."""


@dataclass(frozen=True)
class Preprocess:
    """How images become the network's input.

    The bands are resized by antialiased interpolation, in whole grey levels, and normalised; a
    network of three bands gets a SAT image's visible bands, as in the paper's section 4.1. Images
    are resized to the square, or so that the middle square is a share of their shorter side. A
    pixel is within a grey level of Pillow's, on a GPU within two.

    Parameters
    ----------
    image_size : int
        Side of the result in pixels.
    bands : str
        ``rgb``, ``gray`` for luminance replicated to three channels, or the names of the network's
        bands, joined by commas.
    mean, std : tuple of float
        Mean and deviation of each channel, for pixels from 0 to 1.
    interpolation : str
        ``bilinear`` or ``bicubic``.
    crop_pct : float or None
        Side of the middle square as a share of the resized image's shorter side; None resizes the
        whole image to the square.
    squash : bool
        Whether the image is resized to a square before the middle is cut out.
    order : tuple of int
        Where the images have the network's bands; empty for the first ones. It belongs to the
        images, and is not recorded.
    """

    image_size: int
    bands: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float | None = None
    squash: bool = False
    order: tuple[int, ...] = ()

    @property
    def resized_size(self) -> int:
        """Shorter side of an image after resizing, in pixels, as timm rounds it."""
        return int(self.image_size / (self.crop_pct or 1))

    @property
    def method(self) -> str:
        """What is done to an image, for people."""
        if self.crop_pct is None:
            return f"{self.interpolation}, antialiased, to a square, in whole grey levels"
        how = "to a square of" if self.squash else "shorter side to"
        return (
            f"{self.interpolation}, antialiased, {how} {self.resized_size} px and the middle "
            "square cut out, in whole grey levels"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, with the method by name, as JSON-able values."""
        settings: dict[str, Any] = {
            "image_size": self.image_size,
            "bands": self.bands,
            "mean": list(self.mean),
            "std": list(self.std),
            "decode": "JPEG at 1/2, 1/4 or 1/8 where both sides stay 4/3 as long",
            "resize": self.method,
        }
        # Sets that were made before there was a choice keep their keys.
        usual = {"interpolation": "bilinear", "crop_pct": None, "squash": False}
        own = {name: getattr(self, name) for name in usual}
        return settings | {k: v for k, v in own.items() if v != usual[k]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Build from :meth:`to_dict`'s result."""
        return cls(
            int(values["image_size"]),
            str(values["bands"]),
            tuple(values["mean"]),
            tuple(values["std"]),
            values.get("interpolation", "bilinear"),
            values.get("crop_pct"),
            values.get("squash", False),
        )

    @torch.inference_mode()
    def __call__(
        self,
        groups: Sequence[tuple[np.ndarray, np.ndarray]],
        batch_size: int,
        device: torch.device,
    ) -> torch.Tensor:
        """Return a batch's pixels, resized and not yet normalised.

        Parameters
        ----------
        groups : sequence of (ndarray of shape (k,), ndarray of shape (k, height, width, bands))
            Images of one size each, uint8, with their positions in the batch. An image's result
            does not depend on the other images.
        batch_size : int
            Rows of the result. Rows without an image are zero, so that the network always sees
            the same shape.
        device : torch.device
            Does the resizing, on bytes that are copied to it.

        Returns
        -------
        tensor of shape (batch_size, n_bands, image_size, image_size)
            uint8, channels last.
        """
        size, n_bands = self.image_size, len(self.mean)
        batch = torch.empty(
            (batch_size, n_bands, size, size),
            dtype=torch.uint8,
            device=device,
            memory_format=torch.channels_last,
        )
        n_images = sum(len(positions) for positions, _ in groups)
        if n_images < batch_size:
            batch.zero_()
        for positions, images in groups:
            pixels = self._transform(_to_device(images, device))
            if len(groups) == 1 and n_images == batch_size:
                return pixels.expand(-1, n_bands, -1, -1).contiguous(
                    memory_format=torch.channels_last
                )
            batch[_to_device(positions, device)] = pixels
        return batch

    def _transform(self, images: torch.Tensor) -> torch.Tensor:
        x = images[..., list(self.order)] if self.order else images[..., : len(self.mean)]
        x = x.movedim(-1, 1)
        # A band may be called gray.
        if self.bands == "gray" and len(self.mean) == len(LUMA):
            red, green, blue = x.float().chunk(3, dim=1)
            luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
            x = luma.round_().to(torch.uint8)
        size = self.image_size
        if self.crop_pct is None:
            return self._resize(x, size, size)
        height, width = x.shape[-2:]
        short, side = self.resized_size, min(height, width)
        # The longer side is rounded down, and the crop's corner to the nearest, as in torchvision.
        if self.squash:
            x = self._resize(x, short, short)
        else:
            x = self._resize(x, int(short * height / side), int(short * width / side))
        top, left = (int(round((length - size) / 2)) for length in x.shape[-2:])
        return x[..., top : top + size, left : left + size]

    def _resize(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        if x.shape[-2:] == (height, width):
            return x
        on_cpu = x.device.type == "cpu"
        # Only the CPU's kernel takes bytes, which are six times as fast as floats.
        resized = functional.interpolate(
            x if on_cpu else x.float(),
            size=(height, width),
            mode=self.interpolation,
            antialias=True,
            align_corners=False,
        )
        return resized if on_cpu else resized.round_().clamp_(0, 255).to(torch.uint8)


def _to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    # PyTorch warns of read-only arrays, such as the pixels of a single image.
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if device.type == "cpu":
        return tensor
    # Pinned memory and a separate stream let the copy overlap with the forward pass before it.
    stream = _copy_stream(device)
    with torch.cuda.stream(stream):
        copied = tensor.pin_memory().to(device, non_blocking=True)
    computing = torch.cuda.current_stream(device)
    computing.wait_stream(stream)
    copied.record_stream(computing)
    return copied


@lru_cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
