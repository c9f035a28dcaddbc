"""The settings of stage one as a frozen, validated value."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from featstore.config.checks import NUMBER, check_choice, check_integer, check_range, named_fields
from featstore.config.choices import (
    BANDS,
    COMPILE,
    FEATURE_DTYPES,
    MAX_BATCH_SIZE,
    MAX_IMAGE_SIZE,
    MIN_IMAGE_SIZE,
    ON_ERROR,
    POOLS,
    PRECISIONS,
)
from featstore.config.dataset import DatasetOptions
from featstore.errors import ConfigError
from featstore.io.files import json_digest

SCENE_SETTINGS = ("window", "stride", "labels", "label_column", "label_by")


TUPLES = ("layers", "devices", "columns", "split_files")
"""Settings that are tuples."""


OPTIONS = {"value_range": "range", "split_files": "splits"}
"""Options of the command line that are not named after their setting."""


def _option_words(name: str, value: Any) -> list[str]:
    """Return a setting and its value as words of the command line."""
    option = f"--{OPTIONS.get(name, name).replace('_', '-')}"
    if value is True:
        return [option]
    return [option, ",".join(value) if isinstance(value, list | tuple) else str(value)]


@dataclass(frozen=True)
class ExtractConfig(DatasetOptions):
    """Everything that one extraction was asked for.

    Parameters
    ----------
    model : str
        A network of torchvision, such as ``resnet50``, or of another source, such as
        ``timm:vit_small_patch14_dinov2.lvd142m`` or ``package.module:function``; or
        ``pixelstats``, ``deepsat``, ``rcf[:FEATURES[/KERNEL]]`` or ``mosaiks[:FEATURES[/KERNEL]]``.
    dataset : str
        The name of a dataset, such as ``ucmerced``, ``folder`` or ``table``.
    layers : tuple of str
        Layers by the papers' or torchvision's names; empty for the network's feature layer.
    weights : str
        ``imagenet`` for the weights that the model's name means, a torchvision weights name, a
        file's path, or ``random:SEED``, which for ``rcf`` and ``mosaiks`` seeds the filters.
    root : str or None
        Where the dataset's files are looked for.
    limit : int or None
        Use this many samples, spread evenly over splits and classes; None for all.
    seed : int
        Seeds the split of datasets that have no official one, and the demo's images.
    pool : str
        How a map or tokens become a vector: ``avg``, ``max``, ``avgmax``, ``flatten`` or ``gem``;
        of tokens, ``cls``, ``tokens`` (without class token and registers) or ``cls+tokens``.
        ``auto`` is ``avg`` for a map and the network's own reading of its tokens.
    bands : str
        ``rgb``; ``gray`` for luminance replicated to three channels; or, of image files, ``all``,
        or numbers from 1 or names with commas, such as ``4,3,2``.
    value_range : str or None
        Values of image files that become black and white: ``LOW,HIGH``, one such pair for each
        band with semicolons, or ``percentile:2,98`` of the training images.
    nodata : str or None
        The value of pixels without data, a number or ``nan``, which get their band's mean; None
        refuses images with such pixels.
    image_size : int or None
        Side, in pixels, to which images are resized; None for the network's own.
    precision : str
        ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    devices : tuple of str
        Devices of this machine to share the work, such as ``("cuda:0", "cuda:1")``; empty for
        `device` alone.
    scheduler : str or None
        Address of a Dask scheduler whose workers share the work.
    batch_size : int or None
        Images in one forward pass; None chooses by device and image size.
    compile : str
        ``on`` to compile the network, ``off`` not to, ``auto`` when it saves more time than it
        takes.
    dtype : str
        What features are stored as: ``float32``, ``float16``, or ``auto`` for float16 where the
        network computes in half precision and no value is too large for it.
    on_error : str
        ``stop`` at an unreadable image, or ``mask`` its row.
    follow_links : bool
        Whether links in a tree of images may lead out of it.
    columns : tuple of str
        The columns of a table that have other names than ``path``, ``image``, ``label``,
        ``split``, ``group`` and ``id``, such as ``("path=file", "label=class")``.
    task : str or None
        What a table's labels are: ``classification``, ``multilabel`` or ``regression``; None for
        one class, or several where a label is a list or a text with semicolons.
    split_files : tuple of str
        Files that list the images of the training, test and, as a third, validation split.
    groups_from : str or None
        What keeps images together on one side of a split: a column of a table,
        ``regex:PATTERN`` of the sample ids, or ``grid:SIZE`` of places in map units. The windows of
        scenes are grouped by blocks of four windows, or by such a grid.
    window, stride : int or None
        Of the dataset ``scene``: the side of its windows, and how far they are from each other, in
        pixels; without `stride`, they lie side by side.
    labels, label_column : str or None
        Of the dataset ``scene``: a vector file of polygons, and the column of their classes.
    label_by : str
        ``majority`` for the class of the polygons that cover more than half of a window, or
        ``centre`` for that at its middle.

    Raises
    ------
    ConfigError
        When a value is out of its range.
    """

    model: str
    dataset: str
    layers: tuple[str, ...] = ()
    weights: str = "imagenet"
    root: str | None = None
    pool: str = "auto"
    bands: str = "rgb"
    value_range: str | None = None
    nodata: str | None = None
    image_size: int | None = None
    precision: str = "auto"
    device: str = "auto"
    devices: tuple[str, ...] = ()
    scheduler: str | None = None
    batch_size: int | None = None
    compile: str = "auto"
    dtype: str = "auto"
    on_error: str = "stop"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("pool", self.pool, POOLS)
        if not all(word.strip() for word in self.bands.split(",")):
            raise ConfigError(f"bands is {self.bands!r}; give {', '.join(BANDS)}, or e.g. 4,3,2.")
        if self.value_range is not None:
            check_range(self.value_range)
        if self.nodata is not None and not re.fullmatch(f"nan|{NUMBER}", self.nodata):
            raise ConfigError(f"nodata is {self.nodata!r}; it must be a number or nan.")
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("compile", self.compile, COMPILE)
        check_choice("dtype", self.dtype, FEATURE_DTYPES)
        check_choice("on_error", self.on_error, ON_ERROR)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device is {self.device!r}; it must be auto, cpu, cuda or cuda:N.")
        # A bare number is a GPU's.
        devices = tuple(f"cuda:{d}" if d.isdecimal() else d for d in self.devices)
        object.__setattr__(self, "devices", devices)
        if wrong := [d for d in devices if not re.fullmatch(r"cpu|cuda:\d+", d)]:
            raise ConfigError(
                f"devices holds {wrong[0]!r}; name GPUs by their numbers (0,1) or cuda:N, or cpu."
            )
        if sum([self.device != "auto", bool(devices), self.scheduler is not None]) > 1:
            raise ConfigError("Give only one of device, devices and scheduler.")
        if self.image_size is not None:
            check_integer("image_size", self.image_size, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE)
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, 1, MAX_BATCH_SIZE)
        if any(not layer for layer in self.layers):
            raise ConfigError("layers holds an empty name; give names such as fc1000 or conv1.")
        object.__setattr__(self, "layers", tuple(dict.fromkeys(self.layers)))
        own = [field for field in fields(self) if field.name in SCENE_SETTINGS]
        given = [field.name for field in own if getattr(self, field.name) != field.default]
        if self.dataset != "scene" and given:
            raise ConfigError(f"{given[0]} is a setting of the dataset scene, not {self.dataset}.")

    @property
    def dataset_options(self) -> DatasetOptions:
        """The settings with which the dataset is opened."""
        return DatasetOptions(**{f.name: getattr(self, f.name) for f in fields(DatasetOptions)})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        return asdict(self) | {name: list(getattr(self, name)) for name in TUPLES}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_dict`'s result; unknown settings raise ConfigError."""
        named = named_fields(cls, values)
        tuples = {name: tuple(named.get(name, ())) for name in TUPLES}
        return cls(**named | tuples)

    def command(self, store: str | Path) -> str:
        """Return the command line that asks for the same, defaults left out."""
        return shlex.join(["featstore", "extract", *self.options(), "--store", str(store)])

    def options(self, but: Sequence[str] = ()) -> list[str]:
        """Return the options of the settings, defaults and those in `but` left out."""
        words = []
        of_images = {field.name for field in fields(DatasetOptions)}
        for field in sorted(fields(self), key=lambda field: field.name in of_images):
            if field.name in but:
                continue
            value = getattr(self, field.name)
            if value != field.default:
                words += _option_words(field.name, value)
        return words

    def request(self) -> dict[str, Any]:
        """Return the settings that decide what a feature row holds.

        Left out are the place and speed of the work (root, devices, batch size, compiling), which
        layers are wanted and how the maps are pooled (each layer is stored by itself), the policy
        for bad images and links, and what the dataset's own identity covers.
        """
        weights = self.weights
        if Path(weights).is_file():
            weights = Path(weights).name
        return {
            "model": self.model,
            "weights": weights,
            "bands": self.bands,
            **{n: v for n in ("value_range", "nodata") if (v := getattr(self, n)) is not None},
            "image_size": self.image_size,
            "precision": self.precision,
            "dtype": self.dtype,
        }

    def digest(self) -> str:
        """Return the sha256 (hex) of the settings."""
        return json_digest(self.to_dict())
