"""torchgeo's networks for satellite images of any bands; the only file that imports torchgeo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torchgeo.models
from torch import nn

from featstore.errors import BackboneError, WeightsError
from featstore.io.downloads import fetch
from featstore.models.checkpoints import load_into
from featstore.models.network import Network, seeded
from featstore.models.timm_source import untraced
from featstore.models.weights import Weights, checkpoints_folder
from featstore.progress import Progress
from featstore.text import did_you_mean

HEADS = {"resnet": "fc", "vit": "head", "swin": "head"}
"""The head of each kind of network that takes pixels alone."""


COLORS = {
    "red": ("R", "B4", "B04"),
    "green": ("G", "B3", "B03"),
    "blue": ("B", "B2", "B02"),
    "nir": ("N", "NIR", "B8", "B08"),
}
"""What the bands of NAIP and Sentinel-2 are called. Landsat's numbers mean other bands."""


def list_names() -> list[str]:
    """Return the names of all networks with weights, as ``ARCH/WEIGHTS``."""
    return [
        f"{name}/{member.name}"
        for name in torchgeo.models.list_models()
        if name.startswith(tuple(HEADS))
        for member in torchgeo.models.get_model_weights(name)
    ]


class TorchgeoNetwork(Network):
    """One of torchgeo's networks, by architecture and name of its weights."""

    feature_name = "pre_logits"
    node_title = "node"

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._name, _, wanted = model.partition(":")[2].partition("/")
        known = [n for n in torchgeo.models.list_models() if n.startswith(tuple(HEADS))]
        if self._name not in known:
            raise BackboneError(
                f"featstore reads no network {self._name!r} of torchgeo."
                f"{did_you_mean(self._name, known)} It reads {', '.join(known)}."
            )
        weights = {one.name: one for one in torchgeo.models.get_model_weights(self._name)}
        if wanted not in weights:
            raise BackboneError(
                f"torchgeo has no weights {wanted!r} of {self._name}."
                f"{did_you_mean(wanted, weights)} Use {self._name}/NAME; the names are "
                f"{', '.join(weights)}."
            )
        self._weights = weights[wanted]
        self._n_bands = int(self._weights.meta["in_chans"])
        self.bands = _bands(wanted, self._weights.meta.get("bands"), self._n_bands)
        self.heads = (next(head for kind, head in HEADS.items() if self._name.startswith(kind)),)
        self._is_swin = self._name.startswith("swin")
        self.fixes_size = self._name.startswith("vit")

    def build(self, image_size: int, seed: int = 0, n_classes: int | None = None) -> nn.Module:
        """Return the network for its weights' bands, with seeded random weights, in eval mode."""
        options: dict[str, Any] = {} if n_classes is None else {"num_classes": n_classes}
        if self._is_swin:
            options = {"num_classes": n_classes} if n_classes else {}
        else:
            options["in_chans"] = self._n_bands
        if self.fixes_size:
            options["img_size"] = image_size
        with seeded(seed):
            network: Any = torchgeo.models.get_model(self._name, weights=None, **options)
            if self._is_swin:
                first = network.features[0][0]
                network.features[0][0] = nn.Conv2d(
                    self._n_bands, first.out_channels, first.kernel_size, first.stride
                )
        found: nn.Module = network.eval()
        return found

    def load(self, weights: Weights, image_size: int) -> nn.Module:
        """Return the network with weights, which torchgeo has without a head, or a last norm."""
        if weights.path is None:
            return self.build(image_size, weights.seed or 0)
        network = self.build(image_size, n_classes=weights.n_classes)
        may_lack = (*self.heads, "norm") if self.fixes_size else self.heads
        load_into(network, self.read(weights.path), weights.path, may_lack)
        return network

    def preset(self) -> Weights:
        """Return the input of the weights, as the steps of their transforms say it."""
        transforms = self._weights.transforms
        steps: list[Any] = list(transforms.children()) if transforms else []
        size, crop, largest, is_signed = None, None, 0.0, False
        scales, shifts = [1.0] * self._n_bands, [0.0] * self._n_bands
        for step in steps:
            kind = type(step).__name__
            if kind == "Normalize":
                mean, std = (_each(v, self._n_bands) for v in (step.mean, step.std))
                largest = max(largest, *std)
                is_signed = is_signed or min(mean) < 0
                scales = [a / s for a, s in zip(scales, std, strict=True)]
                shifts = [(b - m) / s for b, m, s in zip(shifts, mean, std, strict=True)]
            elif kind == "Resize":
                size = int(step.size[0])
            elif kind == "CenterCrop":
                crop = int(step.size[0])
            else:
                raise BackboneError(
                    f"{self.model} prepares images by {kind}, which featstore does not do. Use "
                    "another network."
                )
        max_value = 255.0 if largest <= 255 else max(10_000.0, largest)
        return Weights(
            self._weights.name,
            None,
            "",
            crop or size or 224,
            # The pixel p counts as p / max_value.
            tuple(-b / (a * max_value) for a, b in zip(scales, shifts, strict=True)),
            tuple(1 / (a * max_value) for a in scales),
            crop_pct=crop / size if crop and size and crop < size else None,
            squash=bool(crop and size and crop < size),
            # Radar's decibels are below 0; without normalisation the values are unknown.
            max_value=max_value if largest and not is_signed else None,
        )

    def fetch(self, progress: Progress) -> Path:
        """Return the file of the weights, downloaded from their address."""
        url = str(self._weights.url)
        path = checkpoints_folder() / url.partition("?")[0].rpartition("/")[2]
        if not path.name:
            raise WeightsError(f"torchgeo names no file for {self.model}.")
        return fetch(url, path, None, progress)

    def untraced(self) -> tuple[Sequence[type[nn.Module]], Sequence[Callable[..., Any]]]:
        """Return what timm, which builds most of them, does not let torch.fx look into."""
        return untraced()


def _bands(weights: str, names: Sequence[str] | None, n_bands: int) -> tuple[str, ...]:
    """Return the names of bands: colors where they are known, else torchgeo's own."""
    if names is None:
        return ("red", "green", "blue")[:n_bands]
    known = {own: color for color, all_of in COLORS.items() for own in all_of}
    is_known = weights.startswith(("SENTINEL2", "NAIP"))
    return tuple(known.get(name, name) if is_known else name for name in names)


def _each(values: Any, n: int) -> list[float]:
    """Return one value for each of n bands, of one for all or one for each."""
    found = [float(value) for value in values]
    return found * n if len(found) == 1 else found


open_network = TorchgeoNetwork
