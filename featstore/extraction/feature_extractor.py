"""A scikit-learn transformer that turns images into features, each image once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from featstore.config import ExtractConfig
from featstore.datasets.formats.given import (
    NAME,
    GivenArray,
    GivenFiles,
    given_source,
)
from featstore.errors import ConfigError, ImageError
from featstore.extraction.extract import answering_layers, extract_images
from featstore.extraction.spec import Images, dataset_of, is_percentile, make_request
from featstore.io.fingerprints import FingerprintCache, Watch
from featstore.models.names import PATCH_MODEL, source_of
from featstore.progress import SILENT
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.selection import Selection

TITLE = "feature-extractor"
"""Title of the feature sets whose samples are named by the hashes of their images."""


class FeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn images into features, as a step of a scikit-learn pipeline.

    Features are kept in a store under the hash of each image, so that cross-validation, a search
    or another process computes an image once.

    Parameters
    ----------
    model : str
        A network, such as ``resnet50``; see :class:`featstore.config.ExtractConfig`.
    layers : str or sequence of str
        Layers, whose features stand side by side; empty for the network's feature layer.
    store : str, Path or FeatureStore, optional
        The feature store; by default :func:`featstore.open_store`'s.
    weights, pool, bands, value_range, nodata, image_size, precision, device, batch_size, dtype
        As of :class:`featstore.config.ExtractConfig`.

    Attributes
    ----------
    n_features_out_ : int
        Number of features.
    layers_ : list of str
        The layers as the store names them.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(FeatureExtractor("resnet50"), LogisticRegression())
    >>> model.fit(images, labels)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str = "resnet50",
        *,
        layers: str | Sequence[str] = (),
        store: str | Path | FeatureStore | None = None,
        weights: str = "imagenet",
        pool: str = "auto",
        bands: str = "rgb",
        value_range: str | None = None,
        nodata: str | None = None,
        image_size: int | None = None,
        precision: str = "auto",
        device: str = "auto",
        batch_size: int | None = None,
        dtype: str = "auto",
    ) -> None:
        self.model = model
        self.layers = layers
        self.store = store
        self.weights = weights
        self.pool = pool
        self.bands = bands
        self.value_range = value_range
        self.nodata = nodata
        self.image_size = image_size
        self.precision = precision
        self.device = device
        self.batch_size = batch_size
        self.dtype = dtype

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn's checks have to know: the input is images."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.no_validation = True
        # Features are float32, whatever the images are.
        tags.transformer_tags.preserves_dtype = []
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Compute the features of the images, and learn how many they are.

        Parameters
        ----------
        X : ndarray or sequence
            (n_samples, height, width, n_bands) or (n_samples, height, width) uint8, a sequence of
            such arrays of one shape, or of paths.
        y : object
            Not used.

        Returns
        -------
        FeatureExtractor

        Raises
        ------
        FeatstoreError
            When an image can't be read, or a setting is wrong.
        """
        self._features(X)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the images' features, (n_samples, n_features_out) float32; see :meth:`fit`."""
        check_is_fitted(self, "n_features_out_")
        return self._features(X)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> np.ndarray:
        """Return the images' features as :meth:`transform` does."""
        return self._features(X)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the features' names, (n_features_out,) str, such as ``resnet50_fc_7``."""
        check_is_fitted(self, "n_features_out_")
        names = [
            f"{self.model}_{layer}_{column}"
            for layer, width in zip(self.layers_, self._widths, strict=True)
            for column in range(width)
        ]
        return np.array(names, dtype=object)

    def _features(self, X: Any) -> np.ndarray:
        store = open_store(self.store, SILENT)
        given, hashes = _by_content(X, FingerprintCache(store.cache_dir / "fingerprints"))
        config = self._config()
        known = _find(store, config, given)
        missing = [row for row, name in enumerate(hashes) if name not in known]
        if missing:
            # Twins are computed once.
            rows = list({hashes[row]: row for row in missing}.values())
            names = [hashes[row] for row in rows]
            made = extract_images(config, store, SILENT, _part(X, rows, names))
            if made.n_masked:
                raise ImageError(f"{made.n_masked:,} images can't be read.")
            known = _find(store, config, given)
        return self._read(known, hashes)

    def _config(self) -> ExtractConfig:
        layers = self.layers.split(",") if isinstance(self.layers, str) else self.layers
        config = ExtractConfig(
            self.model,
            NAME,
            tuple(layers),
            weights=self.weights,
            pool=self.pool,
            bands=self.bands,
            value_range=self.value_range,
            nodata=self.nodata,
            image_size=self.image_size,
            precision=self.precision,
            device=self.device,
            batch_size=self.batch_size,
            dtype=self.dtype,
        )
        # Each call computes other images, whose features would not fit those of earlier calls.
        if is_percentile(config) or source_of(config.model) == PATCH_MODEL:
            raise ConfigError(
                "An image's features must not depend on the other images of a call, as they do "
                f"with {PATCH_MODEL} and with a range of percentiles. Use another model, such as "
                "rcf, and give the range as LOW,HIGH."
            )
        return config

    def _read(self, known: dict[str, tuple[Selection, int]], hashes: Sequence[str]) -> np.ndarray:
        first = known[hashes[0]][0]
        self.layers_ = [layer for _, layer in first.sources]
        self._widths = [s.layer(layer).n_features for s, layer in first.sources]
        self.n_features_out_ = sum(self._widths)
        features = np.empty((len(hashes), self.n_features_out_), np.float32)
        by_set: dict[int, tuple[Selection, list[int], list[int]]] = {}
        for at, name in enumerate(hashes):
            selection, row = known[name]
            _, places, rows = by_set.setdefault(id(selection), (selection, [], []))
            places.append(at)
            rows.append(row)
        for selection, places, rows in by_set.values():
            features[places] = selection.memmap()[rows]
        return features


def _by_content(X: Any, cache: FingerprintCache) -> tuple[GivenArray | GivenFiles, list[str]]:
    """Return the source of images, and a name for each that its content decides."""
    given = given_source(X)
    if isinstance(given, GivenFiles):
        return given, [f"file {digest}" for digest in cache.sha256(given.paths)]
    return given, [f"array {digest}" for digest in given.sha256_of_each]


def _part(X: Any, rows: Sequence[int], names: Sequence[str]) -> GivenArray | GivenFiles:
    """Return the source of some of the images, under the names of their content."""
    return given_source([X[row] for row in rows], sample_ids=names, title=TITLE)


def _find(
    store: FeatureStore, config: ExtractConfig, given: GivenArray | GivenFiles
) -> dict[str, tuple[Selection, int]]:
    """Return the stored row of each image with the same settings, by the name of its content."""
    cache = FingerprintCache(store.cache_dir / "fingerprints")
    images = Images(dataset_of(config, given), "", Watch({}), cache)
    request = make_request(config, images)
    found: dict[str, tuple[Selection, int]] = {}
    for feature_set in store.readable_sets():
        if feature_set.outline.facets.title != TITLE:
            continue
        layers = answering_layers(feature_set, request, config)
        if layers is not None:
            selection = Selection(tuple((feature_set, layer) for layer in layers))
            rows = enumerate(selection.sample_ids.tolist())
            found |= {name: (selection, row) for row, name in rows if selection.valid[row]}
    return found
