"""Preprocessing: uint8 image batches -> the network's normalised input, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luminance: ITU-R BT.601, as in MATLAB's rgb2gray."""


@dataclass(frozen=True)
class Preprocess:
    """What is done to an image before the network sees it.

    The visible bands are taken (a SAT image's near infrared is dropped, as in the paper's
    section 4.1), resized to a square by antialiased bilinear interpolation, and normalised.

    Parameters
    ----------
    image_size : int
        Side of the result in pixels.
    bands : str
        ``rgb``, or ``gray`` for luminance replicated to three channels.
    mean, std : tuple of float
        Of each channel, for pixels from 0 to 1.
    """

    image_size: int
    bands: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, with the method by name, as JSON-able values."""
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {**settings, "resize": "bilinear, antialiased, to a square"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Build from :meth:`to_dict`'s result."""
        return cls(
            int(values["image_size"]),
            str(values["bands"]),
            tuple(values["mean"]),
            tuple(values["std"]),
        )

    @torch.inference_mode()
    def __call__(
        self,
        groups: Sequence[tuple[np.ndarray, np.ndarray]],
        batch_size: int,
        device: torch.device,
    ) -> torch.Tensor:
        """Return a batch's network input.

        Parameters
        ----------
        groups : sequence of (ndarray of shape (k,), ndarray of shape (k, height, width, bands))
            Images of one size each, uint8, with their positions in the batch. An image's result
            does not depend on what else is in the batch.
        batch_size : int
            Rows of the result; those that no image fills are zero, so that the network always
            sees the same shape.
        device : torch.device
            Where to do it: the bytes travel, not the floats.

        Returns
        -------
        tensor of shape (batch_size, 3, image_size, image_size)
            float32, channels last.
        """
        size = self.image_size
        batch = torch.zeros((batch_size, 3, size, size), device=device).contiguous(
            memory_format=torch.channels_last
        )
        for positions, images in groups:
            batch[torch.from_numpy(positions).to(device)] = self._transform(
                torch.from_numpy(images).to(device)
            )
        return batch

    def _transform(self, images: torch.Tensor) -> torch.Tensor:
        x = images[..., :3].movedim(-1, 1).float()
        if self.bands == "gray":
            luma = torch.tensor(LUMA, device=x.device).view(1, 3, 1, 1)
            x = (x * luma).sum(1, keepdim=True)
        if x.shape[-2:] != (self.image_size, self.image_size):
            x = functional.interpolate(
                x,
                size=(self.image_size, self.image_size),
                mode="bilinear",
                antialias=True,
                align_corners=False,
            )
        mean = torch.tensor(self.mean, device=x.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=x.device).view(1, 3, 1, 1)
        return (x / 255 - mean) / std
