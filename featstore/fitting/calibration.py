"""Fit the calibration of a run's probabilities, on scores of rows that did not train the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

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
from featstore.fitting.splits import row_numbers
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


@dataclass(frozen=True)
class WholeFit:
    """A pipeline that is fitted to all training rows, and what it was fitted with.

    `features` are the rows by their use. `scaled` are the training rows as the pipeline's scaler
    leaves them, a memory map, if it has one. `trained` is how training went.
    """

    kind: Task
    selection: Selection
    features: Mapping[str, Samples]
    scaled: np.ndarray | None
    model: Pipeline
    trained: Trained
    classifier: Classifier
    config: FitConfig
    params: Mapping[str, Any]
    scratch: str

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the training rows."""
        return row_numbers(self.features["train"].rows)

    @cached_property
    def scores(self) -> str | None:
        """Which scores are calibrated; None if the model has none for each class."""
        of_pairs = getattr(self.model[-1], "decision_function_shape", "") == "ovo"
        if hasattr(self.model, "decision_function") and not of_pairs:
            return DECISION
        if not hasattr(self.model, "predict_proba"):
            return None
        return LOGIT if self.kind.name == "multilabel" else LOG_PROBABILITY

    @property
    def floor(self) -> float:
        """Least probability that the model tells from 0; 0 of decision values."""
        clf = self.model[-1]
        if isinstance(clf, KNeighborsClassifier):
            # Shares of a few neighbors are coarse: half a neighbor is the least.
            return float(0.5 / clf.n_neighbors)
        return 0.0 if self.scores == DECISION else FLOOR


def calibrate(fit: WholeFit) -> tuple[Calibrator | None, str]:
    """Return the calibration of a fitted model, and a note where there is none.

    The scores are those of the validation rows, or of the rows that early stopping held out, if
    these are enough. Else they are out-of-fold scores of the training rows: the classifier is
    fitted again without the fold that it scores. Test rows are not used.
    """
    if not fit.config.calibrate or not fit.kind.class_names(fit.selection):
        return None, ""
    if fit.scores is None:
        return None, f"{fit.config.clf} gives no scores, so that nothing can be calibrated."
    try:
        found = _held_out_scores(fit)
    except FitError as error:
        return None, f"The probabilities are not calibrated: {error}"
    temperature, slopes, intercepts = 1.0, np.empty(0), np.empty(0)
    if found.y.ndim == 1:
        known = np.searchsorted(fit.model[-1].classes_, found.y)
        temperature = fit_temperature(found.scores, known)
    else:
        slopes, intercepts = fit_sigmoids(found.scores, found.y)
    return Calibrator(
        "temperature" if found.y.ndim == 1 else "sigmoid",
        fit.scores,
        fit.floor,
        temperature,
        tuple(slopes.tolist()),
        tuple(intercepts.tolist()),
        found.rows_are,
        len(found.y),
    ), ""


def _held_out_scores(fit: WholeFit) -> HeldOut:
    y, val = fit.kind.y(fit.selection), fit.features.get("val")
    if val is not None and len(val) >= MIN_HELD_ROWS:
        return HeldOut(_values(fit, fit.model, val), y[val.rows], "validation images")
    if any(network.mask[fit.rows].any() for network in fit.selection.trained_rows):
        raise FitError(
            "the training images trained the network, so that it is surer of them than of others."
        )
    if (held_out := _held_by_early_stopping(fit.trained, fit.selection)) is not None:
        samples = Samples(fit.features["train"].X, fit.rows[held_out])
        values = _values(fit, fit.model, samples)
        return HeldOut(values, y[samples.rows], "training images that early stopping held out")
    return _out_of_fold(fit)


def _held_by_early_stopping(trained: Trained, selection: Selection) -> np.ndarray | None:
    """Return the training rows that decided no more than the number of epochs, if they are enough.

    Rows of the groups of others are like rows that trained the model: they are not used.
    """
    held_out = None if trained.curves is None else trained.curves.held_out
    if held_out is None or len(held_out) < MIN_HELD_ROWS or selection.groups is not None:
        return None
    return held_out


def _values(fit: WholeFit, model: Pipeline, samples: Samples) -> np.ndarray:
    """Return the scores of samples, by class; -inf for those that `model` does not know."""
    assert fit.scores is not None
    classes, own = fit.model[-1].classes_, model[-1].classes_
    parts = []
    with one_thread():
        for block in samples.blocks(n_outputs=len(classes)):
            values = model_values(model, samples.take(block), fit.scores)
            parts.append(score_values(values, fit.scores, fit.floor))
    found = np.concatenate(parts)
    y = fit.kind.y(fit.selection)
    n_expected = y.shape[1] if y.ndim > 1 else len(own)
    if found.shape[1] != n_expected:
        raise FitError(f"its scores are {found.shape[1]} a row, for {n_expected} classes.")
    if y.ndim > 1 or len(own) == len(classes):
        return found
    whole = np.full((len(found), len(classes)), -np.inf)
    whole[:, np.searchsorted(classes, own)] = found
    return whole


def _out_of_fold(fit: WholeFit) -> HeldOut:
    """Return the scores of training rows, each by a classifier that was fitted without its fold."""
    y = fit.kind.y(fit.selection)[fit.rows]
    folds = _draw_folds(fit.kind, fit.selection, fit.rows, fit.config.seed)
    n_wanted = N_SCORES if y.ndim == 1 else 10 * N_SCORES
    n_scored = 1
    if _is_quick(fit.classifier, fit.params):
        n_scored += int(np.sum(np.cumsum(np.bincount(folds))[:-1] < n_wanted))
    parts = _from_the_whole(fit, y, folds, n_scored)
    if parts is None:
        parts = [_fitted_again(fit, folds == fold, n_wanted) for fold in range(n_scored)]
    values, labels = zip(*parts, strict=True)
    rows_are = f"training images, each scored without its fold of {int(folds.max()) + 1}"
    return HeldOut(np.concatenate(values), np.concatenate(labels), rows_are)


Scored: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Scores of a fold's rows, and their labels."""


def _from_the_whole(
    fit: WholeFit, y: np.ndarray, folds: np.ndarray, n_scored: int
) -> list[Scored] | None:
    """Return the scores of the first folds by what the whole fit has left; None without that.

    The folds are standardised as all rows are.
    """
    is_plain = [name for name, _ in fit.model.steps] == ["scale", "clf"]
    if fit.scaled is None or not is_plain or fit.config.device != "cpu":
        return None
    if not fit.kind.trains_all(y, folds):
        return None
    own = np.where(folds < n_scored, folds, -1)
    models = fit_without(fit.model["clf"], fit.scaled, y, own, fit.trained)
    if models is None:
        return None
    at = [np.flatnonzero(own == fold) for fold in range(n_scored)]
    return [
        (_values(fit, Pipeline([("clf", model)]), Samples(fit.scaled, held_out)), y[held_out])
        for model, held_out in zip(models, at, strict=True)
    ]


def _fitted_again(fit: WholeFit, held_out: np.ndarray, n_wanted: int) -> Scored:
    """Fit the classifier without a fold's rows, and score these."""
    params = fit.kind.with_class_weights(fit.params, fit.selection)
    model = fit.classifier.pipeline(params, fit.config.seed)
    X, tested, y = hold_out(fit.kind, fit.selection, fit.rows, held_out, model, fit.scratch)
    y, tested_y = y[: len(X)], y[len(X) :]
    if fit.classifier.predicts_slowly:
        tested, tested_y = spread(tested, tested_y, n_wanted)
    with explained(fit.config.clf, *X.shape):
        bare = Pipeline([step for step in model.steps if step[0] != "scale"])
        train(bare, X, y, fit.config, records=False)
        return _values(fit, bare, tested), tested_y


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
