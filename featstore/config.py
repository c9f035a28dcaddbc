"""What was asked for: the two stages' settings as frozen, validated values."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from featstore.errors import ConfigError, FitError
from featstore.io.files import json_digest
from featstore.text import did_you_mean

SPLITS = ("train", "test", "val")
"""Names of the splits; a sample's split is stored as its position here."""


TOKEN_POOLS = ("cls", "tokens", "cls+tokens")
"""Poolings of a layer with a class token: that token, the mean of the image's own, or both."""


POOLS = ("auto", "avg", "max", "avgmax", "flatten", "gem", *TOKEN_POOLS)


BANDS = ("rgb", "gray", "all")
"""Bands that have a name of their own; others are given by number or by the files' names."""


PRECISIONS = ("auto", "fp32", "bf16", "fp16")


COMPILE = ("auto", "on", "off")


FEATURE_DTYPES = ("auto", "float32", "float16")


ON_ERROR = ("stop", "mask")


SEARCHES = ("grid", "random", "halving")


LEVEL = 0.05
"""Level of significance of all tests."""


METRICS = ("cosine", "euclidean")
"""Distances between features; the first is the default."""


PROJECTIONS = ("pca", "umap")
"""Ways to draw features in two dimensions; the first is the default."""


MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 16, 4096


USUAL_IMAGE_SIZE = 224
"""Side, in pixels, of most networks' input."""


MAX_BATCH_SIZE = 65536


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")


def _integer(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number from {low} to {high}.")


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def _check_range(text: str) -> None:
    pairs = text.removeprefix("percentile:").split(";")
    is_percentile = text.startswith("percentile:")
    for pair in pairs:
        ends = [float(end) for end in pair.split(",") if re.fullmatch(_NUMBER, end.strip())]
        is_pair = pair.count(",") == 1 and len(ends) == 2 and ends[0] < ends[1]
        if not is_pair or (
            is_percentile and not (len(pairs) == 1 and 0 <= ends[0] <= ends[1] <= 100)
        ):
            raise ConfigError(
                f"The range is {text!r}; give LOW,HIGH, such as 0,3000, or percentile:2,98."
            )


def _named_fields(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ConfigError(
            f"{cls.__name__} has no setting {', '.join(unknown)}; "
            f"it has {', '.join(sorted(known))}."
        )
    return dict(values)


@dataclass(frozen=True)
class ExtractConfig:
    """Everything that one extraction was asked for.

    Parameters
    ----------
    model : str
        A network of torchvision, such as ``resnet50``, or of another source, such as
        ``timm:vit_small_patch14_dinov2.lvd142m`` or ``package.module:function``; or
        ``pixelstats``, ``rcf[:FEATURES[/KERNEL]]`` or ``mosaiks[:FEATURES[/KERNEL]]``.
    dataset : str
        ``sat4``, ``sat6``, ``ucmerced``, ``folder`` or ``demo``.
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
    limit: int | None = None
    seed: int = 0
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
    follow_links: bool = False

    def __post_init__(self) -> None:
        _one_of("pool", self.pool, POOLS)
        if not all(word.strip() for word in self.bands.split(",")):
            raise ConfigError(f"bands is {self.bands!r}; give {', '.join(BANDS)}, or e.g. 4,3,2.")
        if self.value_range is not None:
            _check_range(self.value_range)
        if self.nodata is not None and not re.fullmatch(f"nan|{_NUMBER}", self.nodata):
            raise ConfigError(f"nodata is {self.nodata!r}; it must be a number or nan.")
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("compile", self.compile, COMPILE)
        _one_of("dtype", self.dtype, FEATURE_DTYPES)
        _one_of("on_error", self.on_error, ON_ERROR)
        _integer("seed", self.seed, 0, 2**32 - 1)
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
        if self.limit is not None:
            _integer("limit", self.limit, 1, 2**40)
        if self.image_size is not None:
            _integer("image_size", self.image_size, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE)
        if self.batch_size is not None:
            _integer("batch_size", self.batch_size, 1, MAX_BATCH_SIZE)
        if any(not layer for layer in self.layers):
            raise ConfigError("layers holds an empty name; give names such as fc1000 or conv1.")
        object.__setattr__(self, "layers", tuple(dict.fromkeys(self.layers)))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        lists = {"layers": list(self.layers), "devices": list(self.devices)}
        return asdict(self) | lists

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_dict`'s result; unknown settings raise ConfigError."""
        named = _named_fields(cls, values)
        tuples = {name: tuple(named.get(name, ())) for name in ("layers", "devices")}
        return cls(**named | tuples)

    def command(self, store: str | Path) -> str:
        """Return the command line that asks for the same, defaults left out."""
        words = ["featstore", "extract"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value is True:
                words.append(f"--{field.name.replace('_', '-')}")
            elif value != field.default:
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                option = "range" if field.name == "value_range" else field.name.replace("_", "-")
                words += [f"--{option}", text]
        return shlex.join([*words, "--store", str(store)])

    def request(self) -> dict[str, Any]:
        """Return the settings that decide what a feature row holds.

        Left out are the place and speed of the work (root, devices, batch size, compiling), which
        layers are wanted and how the maps are pooled (each layer is stored by itself), the policy
        for bad images and links, and what the dataset's own identity covers (limit, seed).
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


CLASSIFIER_NAMES = (
    "logreg",
    "linear-svm",
    "svm",
    "mlp",
    "sgd",
    "softmax",
    "ridge",
    "lda",
    "knn",
    "nystroem-svm",
)
"""Names of :data:`featstore.fitting.classifiers.CLASSIFIERS`, without loading scikit-learn."""


SET_FACETS = ("weights", "bands", "image_size", "precision", "dtype", "set_id")
"""What tells feature sets of the same images and model apart; see :class:`FitConfig` for fits."""


def check_classifier(name: str) -> str:
    """Return the name of a classifier, or of a user's own; refuse one that does not exist."""
    if ":" not in name and name not in CLASSIFIER_NAMES:
        raise FitError(
            f"There is no classifier {name!r}.{did_you_mean(name, CLASSIFIER_NAMES)} There are "
            f"{', '.join(CLASSIFIER_NAMES)}, and package.module:function for one of your own."
        )
    return name


SEARCH_SETTINGS = {"cv": SEARCHES, "n_candidates": ("random", "halving")}
"""Settings of a search, and the searches that use them."""


FOLDS = (2, 100)
"""Fewest and most folds of a search."""


@dataclass(frozen=True)
class FitConfig:
    """One classifier to fit.

    Parameters
    ----------
    clf : str
        The classifier's name, such as ``logreg``, or ``package.module:function``.
    params : tuple of (str, Any)
        Parameters that replace the classifier's defaults, sorted by name.
    seed : int
        ``random_state`` of whatever is drawn at random, the folds among it.
    search : str or None
        How parameters are searched for by cross-validation on the training rows: ``grid``,
        ``random``, ``halving``, or None for not at all.
    cv : int
        Folds of the search.
    n_candidates : int
        Parameter settings that ``random`` and ``halving`` draw.
    grid : tuple of (str, tuple)
        Values to search among, by parameter, in place of the classifier's own.
    n_epochs : int or None
        Epochs to train for, whatever the losses; None to stop when they no longer improve.
    split_seed : int or None
        Seeds a new division into training and test rows; None keeps the dataset's.
    drop_leaks : bool
        Whether to leave out test rows whose image is also among the training rows.
    device : str
        ``cpu``; ``cuda`` where scikit-learn computes on a GPU through the array API.
    intelex : bool
        Whether scikit-learn-intelex replaces what it can.

    Raises
    ------
    ConfigError
        When a value is out of its range or a parameter is named twice.
    """

    clf: str
    params: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    search: str | None = None
    cv: int = 5
    n_candidates: int = 20
    grid: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    n_epochs: int | None = None
    split_seed: int | None = None
    drop_leaks: bool = False
    device: str = "cpu"
    intelex: bool = False

    def __post_init__(self) -> None:
        _integer("seed", self.seed, 0, 2**32 - 1)
        _integer("cv", self.cv, *FOLDS)
        _integer("n_candidates", self.n_candidates, 1, 100_000)
        if self.search is not None:
            _one_of("search", self.search, SEARCHES)
        if self.n_epochs is not None:
            _integer("n_epochs", self.n_epochs, 1, 1_000_000)
        if self.split_seed is not None:
            _integer("split_seed", self.split_seed, 0, 2**32 - 1)
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device is {self.device!r}; it must be cpu, cuda or cuda:N.")
        for kind, pairs in (("parameter", self.params), ("grid", self.grid)):
            names = [name for name, _ in pairs]
            if len(set(names)) != len(names):
                raise ConfigError(f"A {kind} of {self.clf} is given twice: {', '.join(names)}.")
        if empty := [name for name, values in self.grid if not values]:
            raise ConfigError(f"The grid gives no values for {', '.join(empty)} of {self.clf}.")
        if self.grid and self.search is None:
            raise ConfigError("A grid of values is for a search: add --search grid.")
        for name, value in (*self.params, *self.grid):
            try:
                json.dumps(value, sort_keys=True)
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"{self.clf} is given {name}={value!r}, which can't be recorded ({error}). "
                    "Give numbers, text, or lists and mappings of these."
                ) from error
        object.__setattr__(self, "params", tuple(sorted(self.params)))
        object.__setattr__(self, "grid", tuple(sorted(self.grid)))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        pairs = {"params": dict(self.params), "grid": {k: list(v) for k, v in self.grid}}
        return {field.name: getattr(self, field.name) for field in fields(self)} | pairs

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_dict`'s result; unknown settings raise ConfigError."""
        named = _named_fields(cls, values)
        params = tuple(dict(named.get("params", {})).items())
        grid = tuple((k, tuple(v)) for k, v in dict(named.get("grid", {})).items())
        return cls(**named | {"params": params, "grid": grid})

    def digest(self) -> str:
        """Return the sha256 (hex) of the settings."""
        return json_digest(self.to_dict())
