"""Stage one: images through a backbone, once, into the feature store.

Nothing here imports torch until it is sure that something has to be computed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.config import SPLITS, ExtractConfig
from featstore.datasets.base import Dataset
from featstore.datasets.duplicates import find_first_rows
from featstore.datasets.loader import usual_shape
from featstore.datasets.registry import data_root, open_dataset
from featstore.environment import versions
from featstore.io.files import with_resume_hint
from featstore.io.fingerprints import FingerprintCache, Watch, dataset_fingerprint
from featstore.progress import SILENT, Progress
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.leaks import count_leaked

if TYPE_CHECKING:
    from featstore.extraction.spec import ExtractionSpec

BOTTLENECKS = {
    "setup_s": "Getting ready took longest; that is paid once, however many images there are.",
    "read_s": "Reading and decoding images was slowest: more cores, or a faster disk, would help.",
    "preprocess_s": "Copying and resizing was slowest: images nearer to the network's size, or "
    "--device cuda, would help.",
    "forward_s": "The arithmetic was slowest, as it should be: a GPU, a smaller network or a "
    "smaller --image-size would help.",
    "numpy": "The arithmetic was slowest, as it should be: more cores would help.",
    "write_s": "Writing was slowest: --pool avg, fewer --layers, --dtype float16, or a faster disk "
    "for --store would help.",
}


ENGINE_HINT = "So would OpenVINO: pip install 'featstore[cpu]'."


@dataclass
class Extraction:
    """What an extraction did.

    Parameters
    ----------
    path : str
        The Zarr group that holds the features, or its URL.
    set_id : str
        The feature set's name in the store.
    layers : list of str
        The matrices asked for.
    n_features : dict of str to int
        Columns of each.
    n_images, n_computed, n_reused, n_masked : int
        Rows; images that went through the network now; rows that the store already had; rows
        whose image can't be read.
    n_by_split : dict of str to int
        Rows of each split that has any.
    n_leaked : int
        Rows of the test and val splits whose image is also, byte for byte, among the training
        images.
    duration_s : float
        From the call to its end.
    images_per_s : float
        Images computed per second of the passes; 0 when there were none.
    """

    path: str
    set_id: str
    dataset: str
    title: str
    model: str
    weights: str
    layers: list[str]
    n_features: dict[str, int]
    n_images: int
    n_computed: int
    n_reused: int
    n_masked: int
    n_by_split: dict[str, int]
    n_leaked: int
    device: str
    precision: str
    dtype: str
    engine: str
    batch_size: int
    nbytes: int
    duration_s: float
    images_per_s: float
    times: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-able values."""
        return asdict(self)

    def bottleneck(self) -> str:
        """Return in plain words what took most of the time, and what would help."""
        names = ("setup_s", "read_s", "preprocess_s", "forward_s", "write_s")
        slowest = max(names, key=lambda name: self.times.get(name, 0.0))
        if slowest == "forward_s" and self.engine == "numpy":
            return BOTTLENECKS["numpy"]
        if slowest == "forward_s" and self.device.startswith("cpu") and not find_spec("openvino"):
            return f"{BOTTLENECKS[slowest]} {ENGINE_HINT}"
        return BOTTLENECKS[slowest]


def extract(
    model: str,
    dataset: str,
    *,
    store: str | Path | FeatureStore = "feature-store",
    layers: str | Sequence[str] = (),
    progress: Progress = SILENT,
    **options: Any,
) -> Extraction:
    """Extract features, unless the store has them.

    Parameters
    ----------
    model : str
        The network, such as ``resnet50``.
    dataset : str
        ``sat4``, ``sat6``, ``ucmerced``, ``folder`` or ``demo``.
    store : str, Path or FeatureStore
        The feature store, made if it is not there.
    layers : str or sequence of str
        Layers to read; none for the network's feature layer.
    progress : Progress
        Told how it goes on.
    **options
        Further settings of :class:`featstore.config.ExtractConfig`.

    Raises
    ------
    FeatstoreError
        One of its kinds, when a setting, file, image or the disk stands in the way. What was
        finished before is kept, and the same call goes on from there.

    Examples
    --------
    >>> import featstore
    >>> featstore.extract("resnet50", "ucmerced", root="data")  # doctest: +SKIP
    """
    words = layers.split(",") if isinstance(layers, str) else layers
    names = tuple(word.strip() for word in words)
    config = ExtractConfig(model=model, dataset=dataset, layers=names, **options)
    return run(config, open_store(store, progress), progress)


def run(config: ExtractConfig, store: FeatureStore, progress: Progress = SILENT) -> Extraction:
    """Extract what `config` asks for into `store`; see :func:`extract`."""
    with with_resume_hint(store.path, config.command(store.address)):
        return _run(config, store, progress)


def _run(config: ExtractConfig, store: FeatureStore, progress: Progress) -> Extraction:
    began = time.perf_counter()
    dataset = _open(config)
    cache = FingerprintCache(store.cache_dir / "fingerprints")
    fingerprint = dataset_fingerprint(dataset.identity(), dataset.files(), cache, progress)
    watch = Watch(cache.stamps)
    request = dataset.record_decoding(_request(config, cache))
    answer = _answer(store, config, fingerprint, request)
    if answer is not None:
        feature_set, names = answer
        store.push(feature_set, progress)
        return _result(feature_set, names, 0, {}, began)

    from featstore.extraction.coordinator import start_workers
    from featstore.extraction.pipeline import ExtractionJob
    from featstore.extraction.spec import find_spec

    with start_workers(config, store, fingerprint, progress) as crew:
        find = crew.recipe if crew else find_spec
        recipe = find(config, dataset.bands, cache, progress)
        dtype = _stored_dtype(config.dtype, recipe.backbone["precision"])
        identity = _identity(config, dataset, fingerprint, recipe, dtype)
        set_id = store.set_id(identity)
        with store.working_on(set_id, progress):
            found = store.find(identity)
            if found is None:
                # A crew's workers read the images; what is read here is not to stay in memory.
                compared = _open(config) if crew else dataset
                first_rows = find_first_rows(compared, cache, progress)
                shape = usual_shape(compared)
                watch.check()
                found = _create(store, identity, config, dataset, recipe, first_rows, shape)
            feature_set = found
            work = ExtractionJob(
                config,
                dataset,
                feature_set,
                recipe.extractor,
                recipe.requested,
                dtype,
                request,
                config.command(store.address),
                watch,
                crew.run_pass if crew else None,
            )
            names = [layer.stored_name(config.pool) for layer in recipe.requested]
            _mark_gaps(feature_set, names)
            missing = [
                layer
                for layer, name in zip(recipe.requested, names, strict=True)
                if not feature_set.layer_path(name).is_file()
            ]
            feature_set.fetch_intact()
            n_computed, times = work.compute(missing, progress)
            store.push(feature_set, progress)
            return _result(feature_set, names, n_computed, times, began)


def _open(config: ExtractConfig) -> Dataset:
    return open_dataset(config.dataset, config.root, seed=config.seed, limit=config.limit)


def _stored_dtype(requested: str, precision: str) -> str:
    if requested != "auto":
        return requested
    # float16 holds three bits more than bfloat16 and the same as float16 computes.
    return "float32" if precision == "fp32" else "float16"


def _request(config: ExtractConfig, cache: FingerprintCache) -> dict[str, Any]:
    """Return what decides a feature row, without looking at the network or its weights."""
    request = config.request()
    if Path(config.weights).is_file():
        return request | {"weights": cache.sha256([Path(config.weights)])[0]}
    packages = versions()
    return request | {name: packages[name] for name in ("torch", "torchvision")}


def _answer(
    store: FeatureStore, config: ExtractConfig, fingerprint: str, request: dict[str, Any]
) -> tuple[FeatureSet, list[str]] | None:
    """Return the set and matrices that answer a request made before, if all are complete."""
    for feature_set in store.readable_sets():
        if feature_set.info.dataset.fingerprint != fingerprint:
            continue
        requested: Sequence[str | None] = config.layers or (None,)
        records = {
            name: record
            for name, record in feature_set.layers().items()
            if record.request == request and record.pool in (None, config.pool)
        }
        found = [
            next(
                (n for n, r in records.items() if (r.default if a is None else a in r.names)),
                None,
            )
            for a in requested
        ]
        names = [name for name in found if name is not None]
        gaps = [feature_set.missing_chunks(name) for name in names]
        if len(names) == len(requested) and not any(gaps):
            return feature_set, names
    return None


def _mark_gaps(feature_set: FeatureSet, layers: Sequence[str]) -> None:
    """Let chunks of complete layers be computed again whose files are gone."""
    complete = [name for name in layers if feature_set.layer_path(name).is_file()]
    gaps = {name: feature_set.missing_chunks(name) for name in complete}
    feature_set.mark_damaged({name: chunks for name, chunks in gaps.items() if chunks})


def _identity(
    config: ExtractConfig, dataset: Dataset, fingerprint: str, recipe: ExtractionSpec, dtype: str
) -> dict[str, Any]:
    from featstore.extraction.spec import weights_names

    return {
        "key": {
            "dataset": fingerprint,
            "model": config.model,
            "weights": recipe.backbone["weights_sha256"],
            "preprocess": dataset.record_decoding(recipe.preprocess),
            "precision": recipe.backbone["precision"],
            "dtype": dtype,
        },
        "facets": {
            "dataset": dataset.name,
            "title": dataset.title,
            "model": config.model,
            "weights": recipe.backbone["weights_name"],
            "weights_names": weights_names(config, recipe),
            "bands": recipe.preprocess["bands"],
            "image_size": recipe.preprocess["image_size"],
            "precision": recipe.backbone["precision"],
            "dtype": dtype,
            "limit": config.limit,
            "seed": config.seed,
        },
    }


def _create(
    store: FeatureStore,
    identity: dict[str, Any],
    config: ExtractConfig,
    dataset: Dataset,
    recipe: ExtractionSpec,
    first_rows: np.ndarray,
    image_shape: tuple[int, int] | None,
) -> FeatureSet:
    info = {
        "identity": identity,
        "dataset": {
            "n_samples": len(dataset),
            "class_names": list(dataset.class_names),
            "fingerprint": identity["key"]["dataset"],
            "identity": dataset.identity(),
            "bands": list(dataset.bands),
            # From whatever folder a report is written.
            "root": str(data_root(config.root).absolute()) if config.root else None,
            "image_shape": list(image_shape) if image_shape else None,
        },
        "backbone": recipe.backbone,
        "preprocess": dataset.record_decoding(recipe.preprocess),
        "command": config.command(store.address),
    }
    sample_ids = list(dataset.sample_ids)
    return store.create(info, dataset.labels, dataset.splits, sample_ids, first_rows)


def _result(
    feature_set: FeatureSet, names: list[str], n_computed: int, times: dict[str, Any], began: float
) -> Extraction:
    records = [feature_set.layer(name) for name in names]
    masked = {row for record in records for row in record.masked_rows}
    counts = np.bincount(feature_set.splits, minlength=len(SPLITS))
    pass_s = times.get("pass_s", 0.0)
    numerics = records[0].numerics
    return Extraction(
        path=feature_set.address,
        set_id=feature_set.set_id,
        dataset=feature_set.facets.dataset,
        title=feature_set.facets.title,
        model=feature_set.facets.model,
        weights=feature_set.facets.weights,
        layers=names,
        n_features={name: r.n_features for name, r in zip(names, records, strict=True)},
        n_images=feature_set.n_samples,
        n_computed=n_computed,
        # Rows of layers that were begun apart are computed for each.
        n_reused=max(0, feature_set.n_samples - n_computed),
        n_masked=len(masked),
        n_by_split={name: n for name, n in zip(SPLITS, counts.tolist(), strict=True) if n},
        n_leaked=count_leaked(feature_set.first_rows, feature_set.splits, masked),
        device=records[0].device,
        precision=feature_set.facets.precision,
        dtype=records[0].dtype,
        engine=numerics.engine,
        batch_size=numerics.batch_size,
        nbytes=feature_set.nbytes,
        duration_s=round(time.perf_counter() - began, 3),
        images_per_s=round(n_computed / pass_s, 2) if pass_s else 0.0,
        times={k: round(v, 3) for k, v in times.items() if k.endswith("_s")},
    )
