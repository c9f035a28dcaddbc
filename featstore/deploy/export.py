"""Write a run's model, from images to probabilities, as one ONNX file that works by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featstore.config import EXPORT_TARGETS
from featstore.deploy.check import DECISION_FACTOR, TOLERANCES, Expected, compare, run_file
from featstore.deploy.deepness import (
    MAX_CLASSES,
    Tile,
    add_map,
    as_tile,
    deepness_metadata,
    input_channels,
    scene_resolution_cm,
    tile_of,
)
from featstore.deploy.onnx_classifiers import add_calibration, add_pipeline
from featstore.deploy.onnx_graph import Graph
from featstore.deploy.onnx_networks import ExportedNetwork, in_order, input_bands, open_networks
from featstore.deploy.stored_images import CheckedImages, find_images
from featstore.environment import __version__
from featstore.errors import ExportError
from featstore.fitting.evaluate import class_scores
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.tasks import find_task
from featstore.io.files import atomic_write
from featstore.io.fingerprints import FingerprintCache
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.runs.calibration import DECISION
from featstore.runs.opening import open_run
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore, open_store

N_CHECKED = 24
"""Images that a file is checked with."""


@dataclass(frozen=True)
class ExportedModel:
    """A file with a run's model, and how it was checked.

    Parameters
    ----------
    path : Path
    nbytes : int
    n_checked : int
        Images that onnxruntime and featstore have both predicted.
    images_are : str
        ``stored images`` or ``generated images``.
    difference : float
        The largest difference of the scores.
    metadata : dict of str to str
        The file's own metadata.
    notes : sequence of str
        What the user has to know, as sentences.
    """

    path: Path
    nbytes: int
    n_checked: int
    images_are: str
    difference: float
    metadata: Mapping[str, str]
    notes: Sequence[str] = ()

    @property
    def check_text(self) -> str:
        """The check, in words."""
        what = "classes and scores" if self.metadata["task"] == "classification" else "scores"
        return (
            f"onnxruntime gives featstore's {what} on {self.n_checked} {self.images_are}; the "
            f"largest difference is {self.difference:.1g}"
        )


def export_run(
    run: Run | str | Path,
    path: str | Path,
    *,
    store: str | Path | FeatureStore | None = None,
    target: str = EXPORT_TARGETS[0],
    tile_size: int | None = None,
    resolution_cm: float | None = None,
    progress: Progress = IN_NOTEBOOKS,
) -> ExportedModel:
    """Write a run's model as an ONNX file that takes images and gives probabilities.

    The file resizes and normalises images, runs the networks, and classifies. Before it is put in
    place, onnxruntime and featstore predict the same images.

    Parameters
    ----------
    run : Run, str or Path
        A run, its name, or its folder.
    path : str or Path
        The file to write; its name ends with ``.onnx``.
    store : str, Path or FeatureStore
        The store of the run.
    target : str
        ``onnxruntime`` for a file that takes ``images``, (n, height, width, n_bands) uint8 of any
        size, and gives ``class``, (n,) text, and ``probability`` (of runs without a calibration
        ``uncalibrated_probability`` or ``decision_value``), (n, n_classes) float32; of several
        classes the latter alone, of numbers ``value``.
        ``deepness`` for a file that QGIS' plugin Deepness reads.
    tile_size : int, optional
        Side of Deepness' tiles in pixels; by default that of the run's images.
    resolution_cm : float, optional
        Side of a pixel on the ground in centimetres, for Deepness; by default that of the run's
        scenes.
    progress : Progress

    Returns
    -------
    ExportedModel

    Raises
    ------
    ExportError
        When a part of the model can't be written, or the file gives other scores than featstore.
    RunError
        When the run is not found, or can't be loaded.
    WeightsError
        When the run's weights are missing.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ExportError(
            f"{path} does not end with .onnx, the kind of file that is written. Name it "
            f"{path.with_suffix('.onnx')}."
        )
    opened = open_store(store, progress)
    run = run if isinstance(run, Run) else open_run(run, opened)
    _check_run(run, target)
    # A classifier that can't be written is an error before networks are built.
    add_pipeline(Graph(), "features", run.model)
    images = find_images(run, opened, N_CHECKED, progress)
    cache = FingerprintCache(opened.cache_dir / "fingerprints")
    networks = open_networks(run.selection.features, images.bands, cache, progress)
    metadata = _metadata(run, input_bands(networks))
    notes, tile = [], None
    if images.why_generated is not None:
        notes.append(f"It was checked with generated images. {images.why_generated}")
    if target == "deepness":
        tile = tile_of(run, networks, tile_size or _side_of(images))
        resolution_cm = resolution_cm or scene_resolution_cm(run, opened)
        if resolution_cm is None:
            notes.append("Set the resolution in Deepness, or export again with --resolution.")
        if bands := input_channels(run, networks):
            notes.append(f"In Deepness, choose these input channels, in order: {bands}.")
        images = replace(images, pixels=[as_tile(image, tile.size) for image in images.pixels])
        metadata |= deepness_metadata(_names(run), tile.n_bands, tile.size, resolution_cm)
    progress.say("Writing the model as ONNX, and comparing it with featstore.")
    graph = _build(run, networks, tile)
    expected = _predict(run, networks, images)
    with atomic_write(path) as temporary:
        graph.write(temporary, run.run_id, metadata)
        difference = _check(temporary, run, networks, images, expected, tile)
        found = ExportedModel(
            path, 0, len(images.pixels), images.are, difference, metadata, tuple(notes)
        )
        metadata |= {"checked": found.check_text}
        graph.write(temporary, run.run_id, metadata)
        nbytes = temporary.stat().st_size
    return replace(found, nbytes=nbytes, metadata=metadata)


def _check_run(run: Run, target: str) -> None:
    """Refuse a run whose model can't be written, or that the target can't show."""
    if run.selection.is_imported:
        raise ExportError(
            f"The features of {run.run_id} were computed elsewhere, so that their network can't be "
            "written. Fit on features that featstore extracted."
        )
    if target == "deepness" and run.task != "classification":
        raise ExportError(
            f"Deepness shows one class of each place, and {run.run_id} is of {run.task}. Leave out "
            "--for deepness."
        )
    if target == "deepness" and len(_names(run)) > MAX_CLASSES:
        raise ExportError(
            f"Deepness shows {MAX_CLASSES} classes, and {run.run_id} has {len(_names(run))}."
        )


def _names(run: Run) -> list[str]:
    """Return the names of the classes that the model knows, by column."""
    if run.task != "classification":
        return list(run.class_names)
    return [run.class_names[label] for label in run.model.steps[-1][1].classes_]


def _side_of(images: CheckedImages) -> int:
    if images.why_generated is not None:
        raise ExportError(
            "The run's images are gone, so that the side of Deepness' tiles is not known. Give "
            f"--tile-size. {images.why_generated}"
        )
    return int(max(images.pixels[0].shape[:2]))


def _build(run: Run, networks: Sequence[ExportedNetwork], tile: Tile | None) -> Graph:
    """Return the graph of a whole model; for Deepness with a tile of a fixed size."""
    graph = Graph()
    if tile is not None:
        pixels = tile.add_to(graph)
    else:
        n_bands = len(input_bands(networks))
        given = graph.input("images", "uint8", ["n", "height", "width", n_bands])
        pixels = graph.add("Transpose", given, perm=[0, 3, 1, 2])
    vectors: dict[int, str] = {}
    for network in networks:
        vectors |= network.add_to(graph, pixels)
    features = [vectors[i] for i in range(len(vectors))]
    X = features[0] if len(features) == 1 else graph.add("Concat", *features, axis=1)
    found = add_pipeline(graph, X, run.model)
    if found.value is not None:
        graph.output(found.value, "value", "float32", ["n"])
        return graph
    names = _names(run)
    decisions, probabilities = found.decisions, found.probabilities
    if decisions is not None and len(names) == 2 and run.task == "classification":
        decisions = graph.add("Concat", graph.add("Neg", decisions), decisions, axis=1)
    # Ties of probabilities that are rounded to 1 are decided by the decision values.
    winners, scores = decisions or str(probabilities), probabilities or str(decisions)
    if run.calibrator is not None:
        scores = add_calibration(graph, found, run.calibrator, len(names))
    if tile is not None:
        if run.score_kind == DECISION:
            # Deepness compares with 0, and decision values may lie below.
            scores = graph.add("Softmax", scores, axis=1)
        add_map(graph, scores, len(names), tile.size)
        return graph
    if run.task == "classification":
        at = graph.add("ArgMax", winners, axis=1, keepdims=0)
        graph.output(graph.add("Gather", graph.constant(names, str), at), "class", "string", ["n"])
    graph.output(scores, _score_output(run), "float32", ["n", len(names)])
    return graph


def _score_output(run: Run) -> str:
    return run.score_kind.replace(" ", "_")


def _predict(run: Run, networks: Sequence[ExportedNetwork], images: CheckedImages) -> Expected:
    """Return what featstore predicts of the images."""
    columns: dict[int, np.ndarray] = {}
    for network in networks:
        columns |= network.encode(images.pixels)
    X = np.concatenate([columns[i] for i in range(len(columns))], axis=1)
    task = find_task(run.task)
    found = task.predict(run.model, Samples(X, np.arange(len(X))), run.calibrator)
    if run.task == "regression":
        return Expected(images.names, found.scores[:, np.newaxis], None)
    if run.task == "multilabel":
        return Expected(images.names, found.scores, None)
    labels = [run.class_names[label] for label in found.labels]
    return Expected(images.names, class_scores(run.model, X, run.calibrator), labels)


def _check(
    path: Path,
    run: Run,
    networks: Sequence[ExportedNetwork],
    images: CheckedImages,
    expected: Expected,
    tile: Tile | None,
) -> float:
    """Return the largest difference of a file's scores; ExportError if it is too large."""
    tolerance = max(TOLERANCES[network.model.backbone["precision"]] for network in networks)
    pixels = in_order(images.pixels, networks)
    if tile is not None:
        scores = run_file(path, [tile.of(image) for image in pixels])["map"]
        corners = scores[:, :, [0, -1], [0, -1]]
        if not (corners[..., 0] == corners[..., 1]).all():
            raise ExportError("No file is written: the pixels of a tile have different scores.")
        at = corners[..., 0].argmax(axis=1)
        labels = [_names(run)[i] for i in at]
        if run.score_kind != DECISION:
            return compare(expected, corners[..., 0], labels, tolerance)
        z = np.exp(expected.scores - expected.scores.max(axis=1, keepdims=True))
        shares = replace(expected, scores=z / z.sum(axis=1, keepdims=True))
        return compare(shares, corners[..., 0], labels, tolerance)
    found = run_file(path, [image[np.newaxis] for image in pixels])
    if run.task == "regression":
        return compare(expected, found["value"][:, np.newaxis], None, tolerance)
    classes = found["class"].tolist() if "class" in found else None
    if run.score_kind == DECISION:
        tolerance *= DECISION_FACTOR
    return compare(expected, found[_score_output(run)], classes, tolerance)


def _metadata(run: Run, bands: Sequence[str]) -> dict[str, str]:
    """Return what a file says of its origin, as texts."""
    record, selection = run.record, run.selection
    networks: list[dict[str, Any]] = [
        {
            "model": spec.backbone.model,
            "layer": spec.layer,
            "weights": spec.backbone.weights_name,
            "weights_sha256": spec.backbone.weights_sha256,
            "image_size": spec.preprocess.image_size,
            "resize": spec.preprocess.resize,
        }
        for spec in selection.features
    ]
    facts: dict[str, Any] = {
        "featstore_version": __version__,
        "run_id": run.run_id,
        "command": record.command,
        "task": run.task,
        "class_names": json.dumps(dict(enumerate(_names(run))), ensure_ascii=False),
        "target_name": record.target_name,
        "score_kind": run.score_kind,
        "calibration": run.calibration_text,
        "dataset": selection.title,
        "dataset_fingerprint": selection.fingerprint,
        "bands": ", ".join(bands),
        "networks": json.dumps(networks, ensure_ascii=False),
        "classifier": record.fit.clf,
        "split": record.rows.split,
        "n_train": record.rows.n_train,
        "n_test": record.rows.n_test,
        f"test_{run.scoring.score}": f"{run.score:.6g}",
    }
    if (reading := selection.features[0].preprocess.reading) is not None:
        facts["value_range"] = json.dumps(reading.value_range)
    return {key: str(value) for key, value in facts.items() if value != ""}
