"""Random convolutional features: an image through random filters, averaged over all its places.

The method is that of Rolf et al. 2021 (MOSAIKS, doi:10.1038/s41467-021-24638-z): filters with a
bias of -1, and of each response the mean of its positive and of its negative part. ``rcf`` draws
Gaussian filters, ``mosaiks`` patches of the training images, whitened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from featstore.config import ExtractConfig
from featstore.datasets.base import Dataset
from featstore.datasets.loader import Batch
from featstore.environment import available_cores
from featstore.errors import BackboneError, WeightsError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.base import Layer, Model
from featstore.models.devices import (
    describe_device,
    make_deterministic,
    resolve_device,
)
from featstore.models.filters import (
    Filters,
    draw_patches,
    gaussian_filters,
    patch_filters,
    stored_patches,
)
from featstore.models.freed_memory import keep_freed_memory
from featstore.models.names import filter_settings
from featstore.models.network_free import check_bands, records_of, refuse_settings
from featstore.models.weights import random_seed
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import FeatureSpec

LAYER = "features"
"""The name of the one layer."""


BIAS = -1.0


BATCH_SIZE = 64
"""Images in a batch; each is computed by itself."""


MAP_NBYTES = 2**20
"""Bytes of the responses that are computed at a time: a strip that stays in a core's cache."""


@torch.inference_mode()
def random_features(image: np.ndarray, filters: torch.Tensor) -> torch.Tensor:
    """Return the features of one image, (2 * n_filters,) float64, on the filters' device.

    `image` is (height, width, n_bands) uint8, at least as large as the filters. First come the
    means of the positive parts, then of the negative ones.
    """
    n_filters, _, side, _ = filters.shape
    pixels = torch.from_numpy(image.astype(np.float32) / 255).to(filters.device)
    planes = pixels.movedim(-1, 0)[np.newaxis]
    height, width = (length - side + 1 for length in image.shape[:2])
    sums = torch.zeros((2, n_filters), dtype=torch.float64, device=filters.device)
    bias = torch.full((n_filters,), BIAS, device=filters.device)
    step = max(1, MAP_NBYTES // (4 * n_filters * width))
    for top in range(0, height, step):
        strip = planes[:, :, top : min(top + step, height) + side - 1]
        response = functional.conv2d(strip, filters, bias)
        sums[0] += response.clamp_min(0).sum((0, 2, 3))
        sums[1] -= response.clamp_max(0).sum((0, 2, 3))
    means: torch.Tensor = sums.flatten() / (height * width)
    return means


class FilterExtractor:
    """Computes random convolutional features, image by image, without resizing.

    On a CPU each core computes an image of its own: the features do not depend on their number,
    and threads do not wait for each other.
    """

    min_size: int | None = None
    n_in_flight = 2

    def __init__(self, filters: np.ndarray, device: torch.device, batch_size: int | None) -> None:
        self.device_type = device.type
        self._filters, self._device = filters, device
        self._batch_size = batch_size or BATCH_SIZE
        self._on_device: torch.Tensor | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._n_threads = 1

    @property
    def device_name(self) -> str:
        """The device's name for people, with the threads of a CPU."""
        if self._device.type == "cpu":
            return f"cpu ({available_cores()} threads)"
        return describe_device(self._device)

    def find(self, nodes: Sequence[str]) -> Sequence[Layer]:
        """Return the layers at the given nodes."""
        return filter_layers(nodes, 2 * len(self._filters))

    def use_threads(self, n_threads: int | None) -> int | None:
        """Do nothing: the features do not depend on the number of threads."""
        return None

    def open(
        self,
        layers: Sequence[Layer],
        n_images: int,
        numerics: Mapping[str, Any] | None = None,
        progress: Progress = SILENT,
    ) -> dict[str, Any]:
        """Copy the filters to the device; return its type, the engine and the batch size."""
        make_deterministic(self._device)
        if self._device.type == "cpu":
            keep_freed_memory()
        self._n_threads = torch.get_num_threads()
        n_images_at_once = available_cores() if self._device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(n_images_at_once, "rcf", torch.set_num_threads, (1,))
        self._on_device = torch.from_numpy(self._filters).to(self._device)
        if numerics is not None:
            self._batch_size = int(numerics["batch_size"])
            return dict(numerics)
        return {"device": self.device_type, "engine": "conv2d", "batch_size": self._batch_size}

    def begin(self, batch: Batch) -> Callable[[], dict[str, np.ndarray]]:
        """Begin a batch; the function returned waits for its features, by layer."""
        pool, filters = self._pool, self._on_device
        if pool is None or filters is None:
            raise RuntimeError("open() comes first")
        _check_sizes(batch, filters.shape[-1])
        futures = {
            position: pool.submit(_features_of, image, filters)
            for positions, images in batch.groups
            for position, image in zip(positions.tolist(), images, strict=True)
        }

        def finish() -> dict[str, np.ndarray]:
            rows = np.zeros((batch.stop - batch.start, 2 * len(filters)), np.float32)
            for position, future in futures.items():
                rows[position] = future.result()
            # The pool's threads have made 1 the number that new threads begin with.
            torch.set_num_threads(self._n_threads)
            return {LAYER: rows}

        return finish


def _features_of(image: np.ndarray, filters: torch.Tensor) -> np.ndarray:
    found: np.ndarray = random_features(image, filters).cpu().numpy()
    return found


def _check_sizes(batch: Batch, side: int) -> None:
    for positions, images in batch.groups:
        if min(images.shape[1:3]) < side:
            raise BackboneError(
                f"Image {batch.start + positions[0]} (counted from 0) has {images.shape[1]} x "
                f"{images.shape[2]} pixels, fewer than the filters' {side} x {side}. Use smaller "
                "filters, or leave out such images."
            )


def filter_layers(names: Sequence[str], n_features: int) -> tuple[Layer, ...]:
    """Return the one layer; any other name raises BackboneError."""
    if unknown := [name for name in names if name != LAYER]:
        raise BackboneError(f"There is no layer {unknown[0]!r}; the only layer is {LAYER}.")
    return (Layer(LAYER, LAYER, (LAYER,), (n_features,), default=True),)


@dataclass(frozen=True)
class FilterSource:
    """Opens random convolutional features of Gaussian filters or of patches."""

    model: str

    def open(
        self,
        config: ExtractConfig,
        dataset: Dataset,
        cache: FingerprintCache,
        progress: Progress = SILENT,
        precision: str | None = None,
    ) -> Model:
        """Open the model with filters of the config's seed; patches are the training images'.

        Settings for networks raise ConfigError, weights that are not random WeightsError.
        """
        refuse_settings(config, but=("weights",))
        seed = 0 if config.weights == ExtractConfig.weights else random_seed(config.weights)
        if seed is None:
            raise WeightsError(
                f"{self.model} has no weights, and --weights {config.weights} can't be used. "
                "--weights random:SEED seeds its filters."
            )
        kind, n_features, side = filter_settings(self.model)
        n_filters = n_features // 2
        if kind == "rcf":
            filters = gaussian_filters(n_filters, len(dataset.bands), side, seed)
        else:
            progress.say(f"Drawing {n_filters} patches of {side} x {side} pixels ...")
            filters = patch_filters(draw_patches(dataset, n_filters, side, seed))
        backbone, preprocess = records_of(
            self.model, dataset.bands, f"random:{seed}", f"seed:{seed}", filters.sha256
        )
        if filters.patches is not None:
            backbone["patches"] = filters.patches
        extractor = FilterExtractor(
            filters.values, resolve_device(config.device), config.batch_size
        )
        layers = {layer: list(config.layers) for layer in filter_layers(config.layers, n_features)}
        # `--weights imagenet` selects a network's features with these beside them.
        names = (f"seed:{seed}", f"random:{seed}", config.weights)
        return Model(extractor, layers, backbone, preprocess, names)

    def reopen(
        self,
        features: Sequence[FeatureSpec],
        bands: Sequence[str],
        device_name: str,
        cache: FingerprintCache,
        progress: Progress = SILENT,
    ) -> Model:
        """Open the model with the recorded filters; other bands raise BackboneError."""
        record = features[0]
        check_bands(record, bands)
        filters = self._recorded_filters(record, len(bands))
        extractor = FilterExtractor(filters.values, resolve_device(device_name), record.batch_size)
        layers = filter_layers([feature.node for feature in features], 2 * len(filters.values))
        return Model(
            extractor,
            {layer: [] for layer in layers},
            record.backbone.to_dict(),
            record.preprocess.to_dict(),
        )

    def _recorded_filters(self, record: FeatureSpec, n_bands: int) -> Filters:
        kind, n_features, side = filter_settings(self.model)
        shape, backbone = (n_features // 2, n_bands, side), record.backbone
        filters = None
        if kind == "rcf":
            filters = gaussian_filters(*shape, random_seed(backbone.weights) or 0)
        elif (patches := stored_patches(backbone.patches or "", *shape)) is not None:
            filters = patch_filters(patches)
        if filters is None or filters.sha256 != backbone.weights_sha256:
            raise WeightsError(
                f"The filters of {self.model} are not those of {record.set_id}: NumPy draws other "
                "numbers here, or the record was changed. Extract again."
            )
        return filters
