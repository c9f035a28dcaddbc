"""Fit the calibration of a run's probabilities, on scores of rows that did not train the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logsumexp
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.fitting.cross_validation import hold_out
from featstore.fitting.estimators import Classifier
from featstore.fitting.evaluate import model_values
from featstore.fitting.solvers import linear, ridge_lda
from featstore.fitting.solvers.blocks import Samples, one_thread
from featstore.fitting.solvers.one_vs_rest import base_of
from featstore.fitting.solvers.train import Trained, explained, fit_without, train
from featstore.fitting.splits import Split, row_numbers
from featstore.fitting.tasks import Task
from featstore.fitting.tasks.base import spread
from featstore.runs.calibration import (
    DECISION,
    LOG_PROBABILITY,
    LOGIT,
    Calibrator,
    score_values,
)
from featstore.store.selection import Selection

N_FOLDS = 5
"""Folds of the training rows; each is scored by a classifier of the other four."""


N_SCORES = 500
"""Out-of-fold scores that fix a temperature: as many folds are scored as give them, where that is
quick; else one fold. Of slow predictions, no more are made. Several classes need ten times as
many: some classes are rare."""


MIN_HELD_ROWS = 200
"""Rows whose scores are enough if the model itself was fitted without them, which costs no fit:
validation rows, or those of early stopping."""


FLOOR = 1e-7
"""Least probability of a network: the rounding of float32."""


SPREAD = (1e-3, 1e3)
"""Bounds of scores in units of the temperature, and of slopes times the scores' deviation."""


@dataclass(frozen=True)
class HeldOut:
    """Scores of rows that did not train the model that scored them, and the rows' labels.

    `scores` is (n, n_classes) float64, -inf for a class that the model did not know.
    """

    scores: np.ndarray
    y: np.ndarray
    rows_are: str


def calibrate(
    kind: Task,
    selection: Selection,
    split: Split,
    features: Mapping[str, Samples],
    scaled: np.ndarray | None,
    model: Pipeline,
    trained: Trained,
    classifier: Classifier,
    config: FitConfig,
    params: Mapping[str, Any],
    scratch: str,
) -> tuple[Calibrator | None, str]:
    """Return the calibration of a fitted model, and a note where there is none.

    The scores are those of the validation rows, or of the rows that early stopping held out, if
    these are enough. Else they are out-of-fold scores of the training rows: the classifier is
    fitted again without the fold that it scores. Test rows are not used. `scaled` are the training
    rows as the model's scaler leaves them, a memory map, if it has one.
    """
    clf = model.steps[-1][1]
    if not config.calibrate or not kind.class_names(selection):
        return None, ""
    if (scores := _scores_of(model, kind)) is None:
        return None, f"{config.clf} gives no scores, so that nothing can be calibrated."
    floor = 0.0 if scores == DECISION else FLOOR
    if isinstance(clf, KNeighborsClassifier):
        # Shares of a few neighbors are coarse: half a neighbor is the least.
        floor = 0.5 / clf.n_neighbors
    y = kind.y(selection)
    rows = row_numbers(split.train)
    if split.val is not None and len(features["val"]) >= MIN_HELD_ROWS:
        values = _values(model, features["val"], scores, floor, kind, y, clf.classes_)
        found = HeldOut(values, y[split.val], "validation images")
    elif any(network.mask[rows].any() for network in selection.trained_rows):
        return None, (
            "The probabilities are not calibrated: the training images trained the network, so "
            "that it is surer of them than of others."
        )
    elif (held_out := _held_by_early_stopping(trained, selection)) is not None:
        samples = Samples(features["train"].X, rows[held_out])
        values = _values(model, samples, scores, floor, kind, y, clf.classes_)
        found = HeldOut(values, y[samples.rows], "training images that early stopping held out")
    else:
        try:
            of = scores, floor
            found = _out_of_fold(
                kind,
                selection,
                rows,
                scaled,
                model,
                trained,
                classifier,
                config,
                params,
                scratch,
                of,
            )
        except FitError as error:
            return None, f"The probabilities are not calibrated: {error}"
    temperature, slopes, intercepts = 1.0, np.empty(0), np.empty(0)
    if y.ndim == 1:
        known = np.searchsorted(clf.classes_, found.y)
        temperature = fit_temperature(found.scores, known)
    else:
        slopes, intercepts = fit_sigmoids(found.scores, found.y)
    return Calibrator(
        "temperature" if y.ndim == 1 else "sigmoid",
        scores,
        floor,
        temperature,
        tuple(slopes.tolist()),
        tuple(intercepts.tolist()),
        found.rows_are,
        len(found.y),
    ), ""


def _held_by_early_stopping(trained: Trained, selection: Selection) -> np.ndarray | None:
    """Return the training rows that decided no more than the number of epochs, if they are enough.

    Rows of the groups of others are like rows that trained the model: they are not used.
    """
    held_out = None if trained.curves is None else trained.curves.held_out
    if held_out is None or len(held_out) < MIN_HELD_ROWS or selection.groups is not None:
        return None
    return held_out


def _scores_of(model: Pipeline, kind: Task) -> str | None:
    """Return which scores of a model are calibrated; None if it has none for each class."""
    of_pairs = getattr(model.steps[-1][1], "decision_function_shape", "") == "ovo"
    if hasattr(model, "decision_function") and not of_pairs:
        return DECISION
    if not hasattr(model, "predict_proba"):
        return None
    return LOGIT if kind.name == "multilabel" else LOG_PROBABILITY


def _values(
    model: Pipeline,
    samples: Samples,
    scores: str,
    floor: float,
    kind: Task,
    y: np.ndarray,
    classes: np.ndarray,
) -> np.ndarray:
    """Return the scores of samples, by class; -inf for those that the model does not know."""
    parts = []
    with one_thread():
        for block in samples.blocks(n_outputs=len(classes)):
            values = model_values(model, samples.take(block), scores)
            parts.append(score_values(values, scores, floor))
    found = np.concatenate(parts)
    own = model.steps[-1][1].classes_
    n_expected = len(own) if y.ndim == 1 else y.shape[1]
    if found.shape[1] != n_expected:
        raise FitError(f"its scores are {found.shape[1]} a row, for {n_expected} classes.")
    if y.ndim > 1 or len(own) == len(classes):
        return found
    whole = np.full((len(found), len(classes)), -np.inf)
    whole[:, np.searchsorted(classes, own)] = found
    return whole


def _out_of_fold(
    kind: Task,
    selection: Selection,
    rows: np.ndarray,
    scaled: np.ndarray | None,
    whole: Pipeline,
    trained: Trained,
    classifier: Classifier,
    config: FitConfig,
    params: Mapping[str, Any],
    scratch: str,
    of: tuple[str, float],
) -> HeldOut:
    """Return the scores of training rows, each by a classifier that was fitted without its fold.

    `whole` is the pipeline that is fitted to all rows, and `trained` is how that went.
    """
    y = kind.y(selection)
    folds = _draw_folds(kind, selection, rows, config.seed)
    n_folds = int(folds.max()) + 1
    n_wanted = N_SCORES if y.ndim == 1 else 10 * N_SCORES
    rows_are = f"training images, each scored without its fold of {n_folds}"
    n_scored = 1
    if _is_quick(classifier, params):
        n_scored += int(np.sum(np.cumsum(np.bincount(folds))[:-1] < n_wanted))
    is_plain = [name for name, _ in whole.steps] == ["scale", "clf"] and config.device == "cpu"
    if scaled is not None and is_plain and kind.trains_all(y[rows], folds):
        own = np.where(folds < n_scored, folds, -1)
        models = fit_without(whole["clf"], scaled, y[rows], own, trained)
        if models is not None:
            at = [np.flatnonzero(own == fold) for fold in range(n_scored)]
            found = [
                _values(Pipeline([("clf", one)]), Samples(scaled, held), *of, kind, y, one.classes_)
                for one, held in zip(models, at, strict=True)
            ]
            return HeldOut(np.concatenate(found), y[rows][np.concatenate(at)], rows_are)
    found, labels = [], []
    for fold in range(n_scored):
        model = classifier.pipeline(kind.with_class_weights(params, selection), config.seed)
        X, tested, own_y = hold_out(kind, selection, rows, folds == fold, model, scratch)
        own_y, tested_y = own_y[: len(X)], own_y[len(X) :]
        if classifier.predicts_slowly:
            tested, tested_y = spread(tested, tested_y, n_wanted)
        with explained(config.clf, *X.shape):
            bare = Pipeline([step for step in model.steps if step[0] != "scale"])
            train(bare, X, own_y, config, records=False)
            classes = np.unique(y[rows])
            found.append(_values(bare, tested, *of, kind, y, classes))
        labels.append(tested_y)
    return HeldOut(np.concatenate(found), np.concatenate(labels), rows_are)


def _is_quick(classifier: Classifier, params: Mapping[str, Any]) -> bool:
    """Return whether further fits of a classifier take little time."""
    steps = classifier.pipeline(params, 0).named_steps
    clf = base_of(steps["clf"])
    is_linear = linear.handles(clf) or ridge_lda.handles(clf)
    return "map" not in steps and (is_linear or isinstance(clf, KNeighborsClassifier))


def _draw_folds(kind: Task, selection: Selection, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of each training row, of five folds or of as many as can be drawn."""
    for n_folds in (N_FOLDS, 3, 2):
        try:
            return kind.draw_folds(selection, rows, n_folds, seed)
        except FitError:
            continue
    raise FitError("there are too few training images, or groups of them, to hold some out.")


def fit_temperature(scores: np.ndarray, codes: np.ndarray) -> float:
    """Return the temperature that makes the true classes most likely.

    Parameters
    ----------
    scores : ndarray of shape (n_samples, n_classes), float
        -inf for classes that can't be predicted.
    codes : ndarray of shape (n_samples,), int
        Columns of the true classes. Rows whose own score is -inf are left out.

    Returns
    -------
    float
        The minimum of the log-loss. As with Platt 1999, a row's label counts (n + 1) / (n + 2), and
        the other classes share the rest: so the temperature is above 0 where all rows are right.
    """
    own = scores[np.arange(len(codes)), codes]
    known = np.isfinite(own)
    margins = scores[known] - own[known, None]
    n, finite = len(margins), np.isfinite(margins)
    if not n:
        raise FitError("no row that is held out has a class that the others have.")
    others = np.where(finite, margins, 0.0).sum(axis=1) / np.maximum(finite.sum(axis=1) - 1, 1)
    spread = float(np.std(margins[finite])) or 1.0
    wrong = float(others.mean()) / (n + 2)

    def loss(log_scale: float) -> float:
        scale = np.exp(log_scale)
        return float(logsumexp(scale * margins, axis=1).mean() - scale * wrong)

    low, high = (float(np.log(bound / spread)) for bound in SPREAD)
    best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(-best.x))


def fit_sigmoids(scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and intercept of each class, after Platt 1999.

    Parameters
    ----------
    scores : ndarray of shape (n_samples, n_classes), float
    y : ndarray of shape (n_samples, n_classes), int
        1 where a row has the class.

    Returns
    -------
    tuple of ndarray of shape (n_classes,), float64
        Slopes are above 0, so that the order of the rows stays.
    """
    middle, spread = scores.mean(axis=0), scores.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    z = (scores - middle) / spread
    found = np.array([_fit_sigmoid(z[:, c], y[:, c]) for c in range(y.shape[1])])
    slopes = found[:, 0] / spread
    return slopes, found[:, 1] - slopes * middle


def _fit_sigmoid(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return slope and intercept of one class, of standardised scores."""
    n_own = int(y.sum())
    n_others = len(y) - n_own
    target = np.where(y > 0, (n_own + 1) / (n_own + 2), 1 / (n_others + 2))

    def loss(params: np.ndarray) -> tuple[float, np.ndarray]:
        logit = params[0] * z + params[1]
        error = expit(logit) - target
        value = float(np.mean(np.logaddexp(0, logit) - target * logit))
        return value, np.array([np.mean(error * z), np.mean(error)])

    start = np.array([1.0, np.log((n_own + 1) / (n_others + 1))])
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[SPREAD, (None, None)])
    found: np.ndarray = best.x
    return found
