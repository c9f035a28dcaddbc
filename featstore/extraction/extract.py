"""Stage one: a dataset's images through a model, once, into the feature store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore._signatures import settings_of, takes
from featstore.config import ExtractConfig
from featstore.datasets.duplicates import first_of_each, image_digests
from featstore.datasets.formats.given import GivenArray, GivenFiles, given_source
from featstore.datasets.registry import resolve_dataset
from featstore.errors import ConfigError
from featstore.extraction.coordinator import start_workers
from featstore.extraction.pipeline import compute_layers
from featstore.extraction.relabelled import copy_same_windows
from featstore.extraction.result import Extraction, summarize
from featstore.extraction.spec import (
    ExtractionSpec,
    make_request,
    open_config_dataset,
    open_images,
    with_known_range,
)
from featstore.extraction.trained import find_trained_rows
from featstore.io.files import with_resume_hint
from featstore.models.freed_memory import return_freed_memory
from featstore.models.registry import open_model
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.store.creation import create_set
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.removal import remove_folder

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@takes(*settings_of(ExtractConfig, but=("model", "dataset", "layers", "labels")))
def extract(
    model: str,
    dataset: str = "",
    *,
    images: Any = None,
    labels: Any = None,
    sample_splits: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    store: str | Path | FeatureStore | None = None,
    layers: str | Sequence[str] = (),
    progress: Progress = IN_NOTEBOOKS,
    **options: Any,
) -> Extraction:
    """Extract features, unless the store has them.

    Parameters
    ----------
    model : str
        The network, such as ``resnet50``.
    dataset : str
        ``sat4``, ``sat6``, ``ucmerced``, ``folder`` or ``demo``; or a folder of images, which
        means ``folder`` with this root. With `images`, the name that they get.
    images : ndarray or sequence, optional
        Images themselves: (n_samples, height, width, n_bands) uint8, several such arrays of one
        shape, or paths.
    labels : sequence, optional
        Class of each of the `images`, a name or a whole number; a list of classes; or with
        ``task="regression"`` a number. Of the dataset ``scene``, a file of polygons.
    sample_splits : sequence of str, optional
        ``train``, ``test`` or ``val`` for each of the `images`; by default, 70 % of each class are
        drawn for training, whole groups if there are groups.
    groups : sequence, optional
        Group of each of the `images`, such as its scene.
    store : str, Path or FeatureStore
        The feature store, created if it does not exist; by default :func:`open_store`'s.
    layers : str or sequence of str
        Layers to read; empty for the network's feature layer.
    progress : Progress
        Receives phases and messages.
    **options
        Further settings of :class:`featstore.config.ExtractConfig`.

    Returns
    -------
    Extraction

    Raises
    ------
    FeatstoreError
        When a setting, file, image or the disk prevents it. Finished work is kept, and the same
        call continues it.

    Examples
    --------
    >>> import featstore
    >>> featstore.extract("resnet50", "my-images")  # doctest: +SKIP
    """
    words = layers.split(",") if isinstance(layers, str) else layers
    given = None
    if images is None:
        if not (sample_splits is groups is None and isinstance(labels, str | Path | None)):
            raise ConfigError(
                "labels, sample_splits and groups are those of images; a dataset has its own."
            )
        options["labels"] = None if labels is None else str(labels)
        dataset, options["root"] = resolve_dataset(dataset, options.get("root"))
    else:
        seed = options.get("seed", ExtractConfig.seed)
        given = given_source(
            images,
            title=dataset,
            labels=labels,
            splits=sample_splits,
            groups=groups,
            seed=seed,
            task=options.get("task"),
        )
        dataset = given.name
    config = ExtractConfig(model, dataset, tuple(word.strip() for word in words), **options)
    try:
        return extract_images(config, open_store(store, progress), progress, given)
    finally:
        # A notebook goes on with fits.
        return_freed_memory()


def extract_images(
    config: ExtractConfig,
    store: FeatureStore,
    progress: Progress,
    given: GivenArray | GivenFiles | None = None,
) -> Extraction:
    """Extract the features of a config's dataset, or of given images."""
    started = time.perf_counter()
    command = config.command(store.address)
    if given is not None:
        command = f"featstore.extract({config.model!r}, {given.title!r}, images=...)"
        if config.devices or config.scheduler or config.root:
            raise ConfigError(
                "Images that are given as they are can't be computed by workers, and have no "
                "root. Leave out devices, scheduler and root, or write the images to a folder."
            )
    with with_resume_hint(store.path, command):
        images = open_images(config, store, progress, given)
        request = make_request(config, images)
        answer = _find_answer(store, request, config, images.fingerprint)
        if answer is not None:
            feature_set, names = answer
            if (title := feature_set.facets.title) != images.dataset.title:
                progress.say(f"The store has the same images under the name {title}.")
            store.backend.push_set(feature_set, progress)
            return summarize(feature_set, names, started, images.dataset.left_out)

        config, images = with_known_range(config, images)
        found = time.perf_counter()
        with start_workers(config, store, images.fingerprint, progress) as workers:
            open_ = workers.open_model if workers else open_model
            opened = open_(config, images.dataset, images.cache, progress)
            begun = {"files_s": found - started, "open_s": time.perf_counter() - found}
            spec = ExtractionSpec(config, images, opened, request, command)
            with store.backend.working_on(store.set_id(spec.identity), progress):
                feature_set = _find_set(store, spec, progress) or _create_set(
                    store, spec, progress, reopen=workers is not None
                )
                _reopen_gaps(feature_set, spec.layer_names)
                feature_set.fetch_intact()
                copy_same_windows(spec, store, feature_set, progress)
                n_computed, times = compute_layers(
                    spec, feature_set, progress, workers.run_pass if workers else None
                )
                store.backend.push_set(feature_set, progress, held=True)
                left_out = images.dataset.left_out
                times = begun | times
                return summarize(
                    feature_set, spec.layer_names, started, left_out, n_computed, times
                )


def _find_answer(
    store: FeatureStore, request: dict[str, Any], config: ExtractConfig, fingerprint: str
) -> tuple[FeatureSet, list[str]] | None:
    """Return the set and its layers that answer an earlier request, if all are complete."""
    for feature_set in store.readable_sets():
        if feature_set.outline.fingerprint != fingerprint:
            continue
        names = answering_layers(feature_set, request, config)
        if names and all(feature_set.missing_chunks(name) is None for name in names):
            return feature_set, names
    return None


def answering_layers(
    feature_set: FeatureSet, request: dict[str, Any], config: ExtractConfig
) -> list[str] | None:
    """Return a set's complete layers that answer a request, or None if one is missing."""
    records = {
        name: record
        for name, record in feature_set.layers().items()
        if record.request == request and record.is_pooled_by(config.pool)
    }
    if config.layers:
        hits = [[n for n, r in records.items() if own in r.names] for own in config.layers]
    else:
        hits = [[n for n, r in records.items() if r.default]]
    return list(dict.fromkeys(found[0] for found in hits)) if all(hits) else None


def _find_set(store: FeatureStore, spec: ExtractionSpec, progress: Progress) -> FeatureSet | None:
    """Return the set of a spec; one that has lost its group and has no layer gives way."""
    found = store.find(spec.identity)
    if found is None or found.group.is_dir() or found.layer_names():
        return found
    if any(journal.damaged is not None for journal in found.journal().values()):
        # The intact chunks are on object storage.
        return found
    progress.say(f"All arrays of {found.set_id} are missing; it is begun again.")
    remove_folder(found.path)
    return None


def _create_set(
    store: FeatureStore, spec: ExtractionSpec, progress: Progress, *, reopen: bool
) -> FeatureSet:
    """Create the feature set; `reopen` keeps what is read of the images out of memory."""
    dataset = spec.images.dataset
    sample_ids = dataset.sample_ids
    compared = open_config_dataset(spec.config, progress) if reopen else dataset
    digests = image_digests(compared, spec.images.cache, progress)
    first_rows = first_of_each(digests)
    trained = find_trained_rows(spec, digests, first_rows, progress)
    del digests
    record = spec.set_record(trained)
    spec.images.watch.check()
    return create_set(
        store,
        record,
        dataset.labels,
        dataset.splits,
        sample_ids,
        first_rows,
        groups=dataset.groups,
        targets=dataset.targets,
        places=dataset.places,
    )


def _reopen_gaps(feature_set: FeatureSet, layers: Sequence[str]) -> None:
    """Mark missing files of complete layers, so that they are made again."""
    complete = [name for name in layers if feature_set.layer_path(name).is_file()]
    gaps = {name: feature_set.missing_chunks(name) for name in complete}
    feature_set.mark_damaged({name: chunks for name, chunks in gaps.items() if chunks is not None})
