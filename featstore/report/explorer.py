"""Gather what the explorer shows: a map of features, labels, predictions, vectors and pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from sklearn.decomposition import PCA

from featstore.config import MAX_EXPLORED, PROJECTIONS, SPLITS
from featstore.environment import available_cores
from featstore.errors import FeatstoreError, ImageError
from featstore.fitting.run_features import features_of, refuse_layers
from featstore.fitting.solvers.blocks import Samples, one_thread
from featstore.fitting.solvers.scaling import fit_scaler
from featstore.inference.source_images import Originals
from featstore.progress import Progress
from featstore.report.charts import project
from featstore.runs.opening import list_runs
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore
from featstore.store.selection import Selection
from featstore.text import number_text, run_text

MAX_TSNE_POINTS = 10_000
"""Images up to which t-SNE draws the map unless another method is chosen."""


N_RUNS = 8
"""Most runs whose predictions a page has."""


N_COMPONENTS = 48
"""Principal components in which a page finds neighbors."""


MAX_TILE_PX, MIN_TILE_PX = 96, 32
"""Side of a picture, in pixels; the more pictures, the smaller they are."""


SHEET_COLUMNS, SHEET_ROWS = 32, 32
"""Pictures on one sheet."""


PAGE_PIXELS = MAX_EXPLORED * MIN_TILE_PX**2
"""Pixels of all pictures: some 5 MB."""


@dataclass(frozen=True)
class Subject:
    """What is explored: features, each row's split, and runs on the same images."""

    selection: Selection
    splits: np.ndarray
    runs: Sequence[Run]


def find_subject(
    run_or_set: Run | str, store: FeatureStore, layers: str | None, progress: Progress
) -> Subject:
    """Return the features of a run, or of a feature set, with the runs on the same images."""
    if isinstance(run_or_set, Run):
        refuse_layers(run_or_set, layers)
        selection, split = features_of(run_or_set, store)
        splits = np.full(selection.n_samples, len(SPLITS), np.uint8)
        for use, rows in split.uses().items():
            splits[rows] = SPLITS.index(split.test_split if use == "test" else use)
        first = [run_or_set]
    else:
        selection = store.select(set_id=run_or_set, layers=layers)
        splits, first = np.asarray(selection.splits, np.uint8), []
    facts = selection.describe()
    others = [
        run
        for run in list_runs(store, progress)
        if run.task == "classification"
        and run.run_id not in {own.run_id for own in first}
        and run.selection.fingerprint == facts.fingerprint
        and run.selection.n_samples == facts.n_samples
    ]
    others.sort(key=lambda run: -run.score)
    runs = [run for run in [*first, *others] if run.task == "classification"]
    return Subject(selection, splits, runs[:N_RUNS])


def choose_rows(selection: Selection, limit: int) -> np.ndarray:
    """Return the rows that have features, or as many as `limit`, evenly spread."""
    rows: np.ndarray = np.flatnonzero(selection.valid)
    if len(rows) <= limit:
        return rows
    spread: np.ndarray = np.linspace(0, len(rows) - 1, limit).astype(int)
    return np.asarray(rows[spread])


def page_data(
    subject: Subject,
    store: FeatureStore,
    *,
    projection: str | None,
    limit: int,
    root: str | None,
    random_state: int,
    progress: Progress,
) -> dict[str, Any]:
    """Return all that a page holds, as JSON-able values; arrays are base64, little-endian."""
    selection = subject.selection
    rows = choose_rows(selection, limit)
    if len(rows) < 3:
        raise FeatstoreError(
            f"{selection.title} has {len(rows)} images with features; a map needs 3 or more."
        )
    method = projection or ("tsne" if len(rows) <= MAX_TSNE_POINTS else PROJECTIONS[0])
    progress.say(f"Drawing the map of {len(rows):,} images by {method}.")
    found = project(selection.memmap(), rows, method=method, random_state=random_state)
    names, codes = _labels(selection, rows)
    low, high = found.points.min(axis=0), found.points.max(axis=0)
    scale = 65535 / max(float((high - low).max()), 1e-9)
    # Both axes have one scale; the shorter one lies in the middle.
    places = np.round((found.points - (low + high) / 2) * scale + 32767.5).clip(0, 65535)
    vectors, share = _vectors(selection.memmap(), rows, random_state)
    pictures, why_none = _pictures(selection, store, rows, root, progress)
    split_names = [*SPLITS, "unused"]
    return {
        "title": selection.title,
        "model": selection.model,
        "layers": list(selection.layers),
        "n_samples": selection.n_samples,
        "method": found.method,
        "axes": list(found.axes),
        "names": [str(selection.sample_ids[row]) for row in rows],
        "x": _packed(places[:, 0], "<u2"),
        "y": _packed(65535 - places[:, 1], "<u2"),
        "classes": names,
        "labels": _packed(codes, "<i2"),
        "split_names": split_names,
        "splits": _packed(subject.splits[rows], "u1"),
        "runs": [_predictions(run, selection, rows, names) for run in subject.runs],
        "vectors": _packed(vectors, "i1"),
        "n_components": vectors.shape[1],
        "share": share,
        "pictures": pictures,
        "why_no_pictures": why_none,
    }


def _packed(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode()


def _labels(selection: Selection, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return names of classes, and each row's, -1 without one.

    Images of several classes that have not exactly one are ``several classes`` or ``no class``.
    Numbers are divided into five parts of as many images each.
    """
    if selection.task == "classification":
        return list(selection.class_names), selection.y[rows]
    targets = selection.targets
    assert targets is not None
    own = targets[rows]
    known = ~np.isnan(own).any(axis=1)
    codes = np.full(len(rows), -1)
    if selection.task == "multilabel":
        counts = (own > 0).sum(axis=1)
        names = [*selection.target_names, "several classes", "no class"]
        single = np.where(counts == 1, (own > 0).argmax(axis=1), len(names) - 2 + (counts == 0))
        codes[known] = single[known]
        return names, codes
    bounds = np.unique(np.quantile(own[known, 0], np.linspace(0, 1, 6)))
    codes[known] = np.searchsorted(bounds[1:-1], own[known, 0], side="right")
    pairs = list(zip(bounds[:-1], bounds[1:], strict=True)) or [(bounds[0], bounds[0])]
    name = selection.target_names[0]
    return [f"{name} {number_text(low)} to {number_text(high)}" for low, high in pairs], codes


def _predictions(
    run: Run, selection: Selection, rows: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Return what a run predicts of its test and validation rows; -1 elsewhere."""
    place = {str(selection.sample_ids[row]): i for i, row in enumerate(rows)}
    code = {name: i for i, name in enumerate(names)}
    predicted, scores = np.full(len(rows), -1), np.zeros(len(rows), np.float32)
    columns = run.predictions
    for sample, name, score in zip(
        columns["sample_id"], columns["predicted"], columns["score"], strict=True
    ):
        if (i := place.get(str(sample))) is not None:
            predicted[i], scores[i] = code[str(name)], score
    facts = run.selection
    return {
        "run_id": run.run_id,
        "name": run_text(facts.model, facts.weights, facts.layers, run.clf),
        "outcome": run.scoring.outcome(run.outline.summary, "test images"),
        "score_kind": run.score_kind,
        "predicted": _packed(predicted, "<i2"),
        "scores": _packed(np.nan_to_num(scores), "<f4"),
    }


def _vectors(X: np.ndarray, rows: np.ndarray, random_state: int) -> tuple[np.ndarray, float]:
    """Return each row's direction in its principal components, int8, and their variance's share.

    The product of two of them is about 127 squared times the cosine.
    """
    samples = Samples(X, rows)
    standard = fit_scaler(samples).transform(samples.take(slice(0, len(samples))))
    n = min(N_COMPONENTS, *standard.shape)
    with one_thread(), np.errstate(invalid="ignore"):
        pca = PCA(n, svd_solver="randomized", random_state=random_state)
        reduced = pca.fit_transform(standard)
    lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
    directions = reduced / np.where(lengths > 0, lengths, 1)
    share = float(np.nan_to_num(pca.explained_variance_ratio_).sum())
    return np.round(127 * directions).astype(np.int8), share


def _pictures(
    selection: Selection,
    store: FeatureStore,
    rows: np.ndarray,
    root: str | None,
    progress: Progress,
) -> tuple[dict[str, Any] | None, str]:
    """Return sheets of small square pictures, or None and the reason."""
    originals = Originals(store, selection.parts[0][0], root, progress)
    if (reason := originals.unavailable_reason()) is not None:
        progress.say(f"The page has no pictures. {reason}")
        return None, reason
    side = int(np.clip(np.sqrt(PAGE_PIXELS / len(rows)), MIN_TILE_PX, MAX_TILE_PX))
    longest = max(max(originals.dataset.shape(int(row))) for row in rows[:9])
    side = min(side, max(MIN_TILE_PX, longest + 15))
    # Blocks of JPEG, which are 16 pixels wide, do not mix neighbors.
    side -= side % 16
    n_of_sheet = SHEET_COLUMNS * SHEET_ROWS

    def tile(row: int) -> Image.Image | None:
        try:
            picture = Image.fromarray(originals.image(row, side))
        except ImageError:
            return None
        return ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)

    sheets = []
    progress.start("Reading pictures", len(rows), "images")
    try:
        with ThreadPoolExecutor(available_cores()) as pool:
            for start in range(0, len(rows), n_of_sheet):
                own = rows[start : start + n_of_sheet].tolist()
                height = -(-len(own) // SHEET_COLUMNS) * side
                sheet = Image.new("RGB", (SHEET_COLUMNS * side, height), "#808080")
                for i, picture in enumerate(pool.map(tile, own)):
                    if picture is not None:
                        at = (i % SHEET_COLUMNS * side, i // SHEET_COLUMNS * side)
                        sheet.paste(picture, at)
                    progress.advance(1)
                sheets.append(_encoded(sheet))
    finally:
        progress.stop()
    return {"side": side, "columns": SHEET_COLUMNS, "n_of_sheet": n_of_sheet, "sheets": sheets}, ""


def _encoded(sheet: Image.Image) -> str:
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=75, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
