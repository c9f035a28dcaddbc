"""The outline of a run: what lists and rankings need of its record, and the store's index keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featstore.io.files import json_digest
from featstore.runs.scoring import find_scoring
from featstore.store.format.run_schema import RunRecord
from featstore.text import join_some


@dataclass(frozen=True)
class Outline:
    """What lists and rankings need of a run's record, JSON-able.

    `summary` is that of :meth:`featstore.runs.run.Run.summary` without the run's folder;
    `fingerprint` is that of the images. `features`, `fit` and `rows` say for people what fits of
    the same layers and classifier may differ in, see :func:`outline_of`. `files` are in the run's
    folder, or on object storage in the upload that `folder` names.
    """

    summary: dict[str, Any]
    fingerprint: str
    features: dict[str, str]
    fit: dict[str, str]
    rows: str
    files: list[str]
    folder: str


def outline_of(record: RunRecord) -> Outline:
    """Return the outline of a record."""
    return Outline(
        summary=_summary(record),
        fingerprint=record.selection.fingerprint,
        features=features_settings(record),
        fit=fit_settings(record),
        rows=_rows_text(record),
        files=list(record.files),
        folder=record.folder or "",
    )


def features_settings(record: RunRecord) -> dict[str, str]:
    """Return what features of the same layers may differ in, for people.

    ``image_size`` is empty for models that take images in their own size. Layer names tell the
    pooling.
    """
    parts = record.selection.features
    read_as = [part.preprocess for part in parts]
    sizes = [f"{one.image_size} px" for one in read_as if one.image_size]
    digests = [part.backbone.weights_sha256[:6] for part in parts]
    return {
        "bands": _join_unique(one.bands for one in read_as),
        "image_size": _join_unique(sizes),
        "precision": record.selection.precision,
        # Files of one name may hold other weights.
        "weights": f"{record.selection.weights} ({_join_unique(digests)})",
    }


def fit_settings(record: RunRecord) -> dict[str, str]:
    """Return what fits of one classifier to the same rows may differ in besides their seeds.

    Settings at their defaults are empty.
    """
    fit = record.fit
    search, grid = fit.search, fit.grid
    is_drawn = search in ("random", "halving")
    return {
        "params": ", ".join(f"{name}={value}" for name, value in fit.params.items()),
        "n_epochs": f"{fit.n_epochs} epochs" if fit.n_epochs else "",
        "search": f"{search} search" if search else "",
        "scale": {"standard": "standardised", "none": "unscaled"}.get(fit.scale or "", ""),
        "protocol": f"protocol {fit.protocol}" if fit.protocol else "",
        "grid": json.dumps(grid)[1:-1].replace('"', "") if grid else "",
        "cv": f"{fit.cv} folds" if search and search != "validation" else "",
        "n_candidates": f"{fit.n_candidates} candidates" if is_drawn else "",
        "device": "" if fit.device == "cpu" else fit.device,
        "intelex": "intelex" if fit.intelex else "",
        "drop_leaks": "leaks left out" if fit.drop_leaks else "",
        "calibrate": "" if fit.calibrate or not record.class_names else "not calibrated",
    }


def split_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return how the images were divided, for people: of a run, or of the repeats of a fit.

    `lines` are the runs' summaries. A seed is that of a split which the fit drew; without a seed
    the split is the feature set's own.
    """
    seeds = sorted({line["split_seed"] for line in lines if line["split_seed"] is not None})
    if len(seeds) < 2:
        drawn = "".join(f"seed {seed}" for seed in seeds)
    elif seeds[-1] - seeds[0] == len(seeds) - 1:
        drawn = f"seeds {seeds[0]} to {seeds[-1]}"
    else:
        drawn = f"seeds {join_some(seeds)}"
    return ", ".join(filter(None, (lines[0]["split"].removesuffix(" split"), drawn)))


def _rows_text(record: RunRecord) -> str:
    rows = record.rows
    drawn = "" if record.fit.split_seed is None else ", drawn anew"
    return f"{rows.n_train:,} to train, {rows.n_test:,} to test{drawn}"


def _join_unique(texts: Iterable[str]) -> str:
    return "+".join(dict.fromkeys(texts))


def _series(record: RunRecord) -> str:
    """Return the digest of all settings but the seeds: the same for the repeats of one fit."""
    fit = record.fit
    settings = {k: v for k, v in fit.to_dict().items() if k not in ("seed", "split_seed")}
    if not record.class_names:
        # It has no effect on numbers.
        settings.pop("calibrate", None)
    settings["redrawn"] = fit.split_seed is not None
    code = {
        "source": record.source,
        "scikit-learn": record.provenance.versions["scikit-learn"],
    }
    return json_digest({"fit": settings, "features": record.selection.digest, "code": code})


def _summary(record: RunRecord) -> dict[str, Any]:
    selection, rows, scoring = record.selection, record.rows, find_scoring(record.task)
    search = record.search
    by_folds = None if search is None or search.kind == "validation" else search
    return {
        "task": record.task,
        "clf": record.fit.clf,
        "params": record.params,
        "model": selection.model,
        "dataset": selection.dataset,
        "title": selection.title,
        "layers": list(selection.layers),
        "weights": selection.weights,
        "n_features": selection.n_features,
        "n_train": rows.n_train,
        "n_test": rows.n_test,
        **scoring.summary(record),
        "converged": record.converged,
        "duration_s": record.duration_s["total"],
        "peak_rss_nbytes": record.peak_rss_nbytes,
        "n_masked": rows.n_masked,
        "n_leaked": rows.n_leaked,
        "n_dropped": rows.n_dropped,
        "split": rows.split,
        "cv": by_folds.cv if by_folds else None,
        "n_cut_groups": rows.n_cut_groups,
        "n_test_groups": rows.n_test_groups,
        "n_train_of_class": list(rows.n_train_of_class),
        "seed": record.fit.seed,
        "split_seed": record.fit.split_seed,
        "created": record.created,
        f"cv_{scoring.score}": getattr(by_folds, scoring.score) if by_folds else None,
        "protocol": record.fit.protocol,
        "series": _series(record),
        "n_constant_features": record.n_constant_features,
        "notes": list(record.notes),
    }
