"""What one extraction computes: images, model and request, and the feature set that they make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featstore.config import ExtractConfig
from featstore.datasets.base import ArrayDataset, Dataset, FileDataset
from featstore.datasets.formats.given import GivenArray, GivenFiles
from featstore.datasets.formats.scene_dataset import SceneDataset
from featstore.datasets.loader import usual_shape
from featstore.datasets.reading import Reading
from featstore.datasets.registry import data_root, open_dataset
from featstore.environment import versions
from featstore.errors import ConfigError, ImageError, UnclearImageError
from featstore.io.fingerprints import FingerprintCache, Watch, dataset_fingerprint
from featstore.models.base import Model
from featstore.models.names import source_facts
from featstore.progress import SILENT, Progress
from featstore.store.feature_store import FeatureStore
from featstore.store.leaks import TrainedRows

PICTURES = ("rgb", "gray")
"""Bands of files that are read as pictures."""


@dataclass(frozen=True)
class Images:
    """A dataset, the fingerprint of its files, and a watch for changes to them."""

    dataset: Dataset
    fingerprint: str
    watch: Watch
    cache: FingerprintCache


def open_images(
    config: ExtractConfig,
    store: FeatureStore,
    progress: Progress = SILENT,
    given: GivenArray | GivenFiles | None = None,
) -> Images:
    """Open the dataset that a config names, or given images, and hash the files."""
    dataset = open_config_dataset(config, progress) if given is None else dataset_of(config, given)
    for note in dataset.notes:
        progress.say(note)
    cache = FingerprintCache(store.cache_dir / "fingerprints")
    fingerprint = dataset_fingerprint(dataset.identity(), dataset.files(), cache, progress)
    return Images(dataset, fingerprint, Watch(cache.stamps), cache)


def _check_meaning(dataset: FileDataset) -> None:
    try:
        dataset.read(0, 1)
    except UnclearImageError as error:
        raise ConfigError(str(error)) from None
    except ImageError:
        # Extraction names it, or masks its row.
        return


def open_config_dataset(config: ExtractConfig, progress: Progress = SILENT) -> Dataset:
    """Open the dataset that a config names."""
    return open_dataset(
        config.dataset,
        config.root,
        reading=reading_of(config),
        progress=progress,
        **vars(config.dataset_options),
    )


def dataset_of(config: ExtractConfig, given: GivenArray | GivenFiles) -> Dataset:
    """Return the dataset of given images."""
    if isinstance(given, GivenFiles):
        return FileDataset(given, config.limit, reading_of(config))
    if not reading_of(config).is_default:
        raise ConfigError(
            "The bands and values of an array can't be chosen. Choose them in the array, and leave "
            "out bands, value_range and nodata."
        )
    return ArrayDataset(given, config.limit)


def reading_of(config: ExtractConfig) -> Reading:
    """Return how a config reads image files."""
    return Reading.parse(config.bands, config.value_range, config.nodata)


def is_percentile(config: ExtractConfig) -> bool:
    """Return whether a config's range is a percentile of the training images."""
    return (config.value_range or "").startswith("percentile:")


def with_known_range(config: ExtractConfig, images: Images) -> tuple[ExtractConfig, Images]:
    """Return both with the range of values that a percentile of the training images means.

    A first image that leaves open what its bands or values mean raises ConfigError.
    """
    config, dataset = read_as_asked(config, images.dataset)
    return config, images if dataset is images.dataset else replace(images, dataset=dataset)


def read_as_asked(config: ExtractConfig, dataset: Dataset) -> tuple[ExtractConfig, Dataset]:
    """Return both with the range that a percentile means, as :func:`with_known_range` does."""
    if not isinstance(dataset, FileDataset | SceneDataset):
        return config, dataset
    if isinstance(dataset, FileDataset) and not dataset.paths:
        return config, dataset
    if not is_percentile(config):
        if isinstance(dataset, FileDataset):
            _check_meaning(dataset)
        return config, dataset
    low, high = map(float, (config.value_range or "").partition(":")[2].split(","))
    ends = dataset.sampled_range(low, high)
    known = replace(config, value_range=";".join(f"{low!r},{high!r}" for low, high in ends))
    return known, dataset.read_as(reading_of(known))


def make_request(config: ExtractConfig, images: Images) -> dict[str, Any]:
    """Return what decides a feature row, without reading the network or downloading weights."""
    request = images.dataset.record_decoding(config.request()) | source_facts(config.model)
    if Path(config.weights).is_file():
        return request | {"weights": images.cache.sha256([Path(config.weights)])[0]}
    packages = versions()
    return request | {name: packages[name] for name in ("torch", "torchvision")}


@dataclass(frozen=True)
class ExtractionSpec:
    """One extraction: the images, the model, and the request that its records will answer."""

    config: ExtractConfig
    images: Images
    model: Model
    request: dict[str, Any]
    command: str
    """The command line that makes the same request."""

    @property
    def dtype(self) -> str:
        """What features are stored as, ``float32`` or ``float16``."""
        if self.config.dtype != "auto":
            return self.config.dtype
        # float16 holds three bits more than bfloat16 and the same as float16 computes.
        return "float32" if self.model.backbone["precision"] == "fp32" else "float16"

    @property
    def layer_names(self) -> list[str]:
        """The requested layers, by their names in the store."""
        return [layer.stored_name(self.config.pool) for layer in self.model.layers]

    @property
    def preprocess(self) -> dict[str, Any]:
        """What a feature set records of how images become the model's input."""
        return self.images.dataset.record_decoding(self.model.preprocess)

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the feature set: ``key`` by content, ``facets`` for people."""
        backbone, preprocess = self.model.backbone, self.preprocess
        dataset, bands = self.images.dataset, self.config.bands
        return {
            "key": {
                "dataset": self.images.fingerprint,
                "model": self.config.model,
                "weights": backbone["weights_sha256"],
                "preprocess": preprocess,
                "precision": backbone["precision"],
                "dtype": self.dtype,
            },
            "facets": {
                "dataset": dataset.name,
                "title": dataset.title,
                "model": self.config.model,
                "weights": backbone["weights_name"],
                "weights_names": list(self.model.weights_names),
                # Chosen bands, as the user wrote them.
                "bands": preprocess["bands"] if bands in PICTURES else bands,
                "image_size": preprocess["image_size"],
                "precision": backbone["precision"],
                "dtype": self.dtype,
                "limit": self.config.limit,
                "seed": self.config.seed,
            },
        }

    def _windows_record(self) -> dict[str, Any]:
        dataset = self.images.dataset
        if not isinstance(dataset, SceneDataset):
            return {}
        names, paths = zip(*dataset.files(), strict=True)
        sha256 = dict(zip(names, self.images.cache.sha256(paths), strict=True))
        return {"windows": dataset.windows_record(sha256)}

    def set_record(self, trained: TrainedRows | None = None) -> dict[str, Any]:
        """Return what a new feature set records of the extraction.

        `trained` are the rows whose images trained the weights.
        """
        dataset, root = self.images.dataset, self.config.root
        image_shape = usual_shape(dataset)
        return {
            "identity": self.identity,
            "dataset": {
                "n_samples": len(dataset),
                "class_names": list(dataset.class_names),
                "fingerprint": self.images.fingerprint,
                "identity": dataset.identity(),
                "bands": list(dataset.bands),
                # Absolute: a report may be written from another folder.
                "root": str(data_root(root).absolute()) if root else None,
                "image_shape": list(image_shape) if image_shape else None,
                "task": dataset.task,
                "target_names": list(dataset.target_names),
                "group_by": dataset.group_by,
                "options": self.config.dataset_options.to_record(),
                **self._windows_record(),
                **({} if trained is None else {"trained": trained.to_record()}),
            },
            "backbone": self.model.backbone,
            "preprocess": self.preprocess,
            "command": self.command,
        }
