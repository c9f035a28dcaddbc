"""Train by epochs as scikit-learn's ``fit`` does, with loss and score of each epoch.

Adam's networks, and SGDClassifier on many rows, take the steps of ``batches.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import sklearn
from sklearn.base import BaseEstimator
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.class_weight import compute_class_weight

from featstore.errors import FitError
from featstore.fitting.solvers import batches
from featstore.fitting.solvers.batches import Estimator
from featstore.fitting.solvers.blocks import Threads, shared_threads
from featstore.fitting.solvers.epoch_scores import score

EPOCH_NBYTES = 256 * 2**20
"""Size of rows up to which an epoch takes all at once; more come in blocks of about this size."""


RUN_ROWS = 64
"""Most rows of a block that lie side by side. The runs come from all over the matrix, for datasets
are sorted by class; single rows would be slow to read from a disk."""


SCORED_ROWS = 20_000
"""Training rows, evenly spread, that the score of an epoch in batches is of."""


MIN_LEARNING_RATE = 1e-6
"""Learning rate at which scikit-learn's adaptive one gives up."""


LEAST_RATE = 1e-30
"""Learning rate that changes no weight of float32, which are larger."""


@dataclass
class Curves:
    """Training loss, and the score of training and held-out rows, after each epoch.

    The loss of mlp is the mean over the epoch with its penalty, as in ``loss_curve_``, and of a
    number that of the standardised number; that of sgd, the mean over rows and one-vs-rest problems
    after the epoch, without it. `name` says what the score is: ``accuracy``, ``map`` or ``r2``.
    Held-out rows are those of ``early_stopping``, or the dataset's validation rows, which decide
    nothing; without either, `validation_score` is empty. With large batches, the loss of sgd is the
    mean over the epoch too, and the score is that of some :data:`SCORED_ROWS` rows.
    `converged` says that training stopped by itself before ``max_iter`` epochs, or after the
    requested number of them. `held_out` are the positions of the rows that early stopping held
    out, in order.
    """

    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    validation_score: list[float] = field(default_factory=list)
    converged: bool = False
    name: str = "accuracy"
    held_out: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the curves as JSON-able values."""
        return {
            "loss": self.loss,
            self.name: self.score,
            f"validation_{self.name}": self.validation_score,
            "converged": self.converged,
        }


class _Patience:
    """Says when to stop, and lowers an adaptive learning rate before, by scikit-learn's rules."""

    def __init__(self, estimator: Estimator, given: dict[str, Any]) -> None:
        self._estimator = estimator
        self._is_network = not isinstance(estimator, SGDClassifier)
        self._tol = -np.inf if given["tol"] is None else given["tol"]
        # A network stops after more than n_iter_no_change epochs, SGDClassifier after as many.
        self._n_epochs = given["n_iter_no_change"] + self._is_network
        self._is_adaptive = (
            given.get("learning_rate") == "adaptive" and given.get("solver", "sgd") == "sgd"
        )
        self._learning_rate = given["learning_rate_init" if self._is_network else "eta0"]
        self._n_worse = 0
        self.best = np.inf

    def is_spent(self, measure: float) -> bool:
        """Return whether training stops after an epoch with a loss, or a negative score."""
        self._n_worse = self._n_worse + 1 if measure > self.best - self._tol else 0
        self.best = min(self.best, measure)
        if self._n_worse < self._n_epochs:
            return False
        self._n_worse = 0
        if not self._is_adaptive or self._learning_rate <= MIN_LEARNING_RATE:
            return True
        self._learning_rate /= 5
        # A network lowers its own.
        if not self._is_network:
            self._estimator.set_params(eta0=self._learning_rate)
        return False


def trains_by_epochs(estimator: BaseEstimator) -> bool:
    """Return whether :func:`train` can train `estimator` as its own ``fit`` would."""
    if isinstance(estimator, MLPClassifier | MLPRegressor):
        return bool(estimator.solver in ("adam", "sgd"))
    return isinstance(estimator, SGDClassifier) and estimator.loss in batches.MARGIN_LOSSES


def train(
    estimator: Estimator,
    X: np.ndarray,
    y: np.ndarray,
    *,
    n_epochs: int | None = None,
    validate: Callable[[Any], float] | None = None,
    records: bool = True,
) -> Curves:
    """Train by ``partial_fit``, one epoch at a time, until it stops improving.

    All parameters do what scikit-learn's manual says, ``max_iter``, ``tol``,
    ``n_iter_no_change``, ``early_stopping`` and adaptive learning rates included. A network
    takes the steps of its own ``fit``, up to the order of the shuffled rows; SGDClassifier stops
    all one-vs-rest problems together, by their mean loss. Rows beyond 256 MiB come in blocks,
    shuffled within and among them, so that memory holds one. :class:`.Batches` trains Adam's
    networks, and SGDClassifier with its own learning rate on more than 40,000 rows, which come in
    large batches, with the same objective. MLPRegressor is trained on the
    standardised number, and its last layer's weights are then brought into the number's own unit.

    The estimator is unfitted, has an integer ``random_state``, and is trained in place. `X`,
    (n_samples, n_features) float32, may be a read-only memory map larger than memory. `y` is
    (n_samples,), or (n_samples, n_classes) of 0 and 1 for MLPClassifier. `n_epochs` trains for that
    number of epochs, whatever the losses. `validate` gives the score of other rows after an epoch,
    for the record. `records` says whether to record the training score after each epoch even if it
    decides nothing.
    """
    given = estimator.get_params(deep=False)
    is_network = not isinstance(estimator, SGDClassifier)
    y, classes, name, mean, scale = _targets(estimator, y)
    # With an integer, each partial_fit would shuffle in the same way.
    random_state = np.random.RandomState(given["random_state"])
    estimator.set_params(random_state=random_state, early_stopping=False)
    if classes is not None and given.get("class_weight") == "balanced":
        # partial_fit, which could see other rows later, takes only the weights themselves.
        weights = compute_class_weight("balanced", classes=classes, y=y)
        estimator.set_params(class_weight=dict(zip(classes, weights, strict=True)))
    curves, rows, held = Curves(name=name), np.arange(len(y)), None
    if given["early_stopping"] and n_epochs is None:
        X, y, rows, held = _hold_out(X, y, name, given["validation_fraction"], random_state)
        curves.held_out = held.rows
    patience, best_weights = _Patience(estimator, given), None
    in_batches = batches.handles(estimator, len(rows))
    scored = rows[:: max(1, len(rows) // SCORED_ROWS)] if in_batches else rows
    # The features were found to be finite, and the parameters valid, before training.
    quickly = sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
    with shared_threads() as threads, quickly:
        if in_batches:
            show = _by_batches(estimator, X, y, rows, classes, random_state, threads)
        else:
            show = partial(_one_epoch, estimator, X, y, rows, classes, random_state)
        for epoch in range(1, 1 + (n_epochs or given["max_iter"])):
            loss, train_score = _train_epoch(show, epoch), np.nan
            has_loss = is_network or in_batches
            if records or not has_loss:
                own_loss, train_score = score(estimator, X, y, scored, threads)
                loss = loss if has_loss else own_loss
            if not np.isfinite(loss):
                raise _diverged(epoch, f"The loss is {loss}.")
            curves.loss.append(loss)
            curves.score.append(train_score)
            measure = loss
            if held is not None:
                held_score = score(estimator, held.X, held.y, np.arange(len(held.y)), threads)[1]
                curves.validation_score.append(held_score)
                measure = -held_score
                if is_network and measure < patience.best:
                    best_weights = [w.copy() for w in _weights(estimator)]
            elif validate is not None:
                curves.validation_score.append(validate(_in_unit(estimator, mean, scale)))
            if n_epochs is None and patience.is_spent(measure):
                curves.converged = True
                break
    if best_weights is not None:
        for mine, best in zip(_weights(estimator), best_weights, strict=True):
            mine[...] = best
    estimator.set_params(**given)
    vars(estimator).update(vars(_in_unit(estimator, mean, scale)))
    curves.converged |= n_epochs is not None
    return curves


def _targets(
    estimator: Estimator, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, str, float, float]:
    """Return what to train on, its classes, the score's name, and a number's mean and deviation."""
    if isinstance(estimator, MLPRegressor):
        mean, scale = float(np.mean(y, dtype=np.float64)), float(np.std(y, dtype=np.float64)) or 1.0
        return ((y - mean) / scale).astype(np.float32), None, "r2", mean, scale
    if y.ndim == 2:
        return y, np.arange(y.shape[1]), "map", 0.0, 1.0
    return y, np.unique(y), "accuracy", 0.0, 1.0


@dataclass(frozen=True)
class _HeldOut:
    """Rows that early stopping holds out, their labels, and their positions in order."""

    X: np.ndarray
    y: np.ndarray
    rows: np.ndarray


def _hold_out(
    X: np.ndarray, y: np.ndarray, name: str, share: float, random_state: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray, np.ndarray, _HeldOut]:
    """Return features, labels and positions of rows to train on, and the rows that are held out."""
    rows, held_out = train_test_split(
        np.arange(len(y)),
        test_size=share,
        stratify=y if name == "accuracy" else None,
        random_state=random_state,
    )
    in_order = np.sort(held_out)
    if len(rows) * X.shape[1] * 4 <= EPOCH_NBYTES:
        held = _HeldOut(X[held_out], y[held_out], in_order)
        return X[rows], y[rows], np.arange(len(rows)), held
    return X, y, np.sort(rows), _HeldOut(X[in_order], y[in_order], in_order)


def _train_epoch(show: Callable[[], float], epoch: int) -> float:
    """Train an epoch, and return its loss; weights that overflow raise FitError."""
    try:
        return show()
    except ValueError as error:
        # scikit-learn says that weights are not finite, or that there was an overflow.
        if any(word in str(error) for word in ("finite", "overflow")):
            raise _diverged(epoch, str(error)) from error
        raise


def _weights(network: MLPClassifier | MLPRegressor) -> list[np.ndarray]:
    return [*network.coefs_, *network.intercepts_]


def _by_batches(
    estimator: Estimator,
    X: np.ndarray,
    y: np.ndarray,
    rows: np.ndarray,
    classes: np.ndarray | None,
    random_state: np.random.RandomState,
    threads: Threads,
) -> Callable[[], float]:
    """Return what trains an epoch by :class:`.Batches` and returns its mean loss."""
    own = estimator.get_params(deep=False)
    first = np.sort(rows[random_state.permutation(len(rows))[: batches.SMALL_BATCH]])
    if "batch_size" in own:
        # This step is too small to change a weight.
        estimator.set_params(batch_size="auto", learning_rate_init=LEAST_RATE)
    # scikit-learn draws the first weights, and sets what prediction needs.
    estimator.partial_fit(X[first], y[first], **({} if classes is None else {"classes": classes}))
    estimator.set_params(**own)
    state = batches.Batches(estimator, len(rows), threads)
    if classes is not None and y.ndim == 1:
        y = np.searchsorted(classes, y)

    def one_epoch() -> float:
        order = [
            rows_of[random_state.permutation(len(rows_of))]
            for rows_of in _mixed_blocks(rows, 4 * X.shape[1], random_state)
        ]
        return state.epoch(X, y, np.concatenate(order))

    return one_epoch


def _in_unit(estimator: Estimator, mean: float, scale: float) -> Estimator:
    """Return a network that predicts the number itself, of one for the standardised number."""
    if not isinstance(estimator, MLPRegressor):
        return estimator
    found = copy.copy(estimator)
    found.coefs_ = [*estimator.coefs_[:-1], estimator.coefs_[-1] * np.float32(scale)]
    intercept = estimator.intercepts_[-1] * np.float32(scale) + np.float32(mean)
    found.intercepts_ = [*estimator.intercepts_[:-1], intercept]
    return found


def _one_epoch(
    estimator: Estimator,
    X: np.ndarray,
    y: np.ndarray,
    rows: np.ndarray,
    classes: np.ndarray | None,
    random_state: np.random.RandomState,
) -> float:
    """Show the estimator all rows once; return mlp's own mean loss over them."""
    more = {} if classes is None else {"classes": classes}
    # MLPClassifier makes an int64 of each row and class.
    row_nbytes = max(4 * X.shape[1], 8 * len(more.get("classes", ())))
    if len(rows) * row_nbytes <= EPOCH_NBYTES or len(rows) <= RUN_ROWS:
        estimator.partial_fit(X, y, **more)
        return float(getattr(estimator, "loss_", np.nan))
    total = 0.0
    for block in _mixed_blocks(rows, row_nbytes, random_state):
        estimator.partial_fit(X[block], y[block], **more)
        total += float(getattr(estimator, "loss_", np.nan)) * len(block)
    return total / len(rows)


def _mixed_blocks(
    rows: np.ndarray, row_nbytes: int, random_state: np.random.RandomState
) -> Iterator[np.ndarray]:
    """Yield all rows in blocks of about EPOCH_NBYTES, of runs from all over the matrix."""
    n_at_once = max(RUN_ROWS, EPOCH_NBYTES // row_nbytes)
    # Long rows are few in a block, and their runs are shorter: they are as quick to read.
    n_in_run = min(RUN_ROWS, max(1, n_at_once // RUN_ROWS))
    runs = np.array_split(rows, range(n_in_run, len(rows), n_in_run))
    order = random_state.permutation(len(runs))
    n_runs = n_at_once // n_in_run
    for start in range(0, len(order), n_runs):
        yield np.concatenate([runs[i] for i in order[start : start + n_runs]])


def _diverged(epoch: int, cause: str) -> FitError:
    return FitError(
        f"Training failed in epoch {epoch}: {cause} A smaller learning rate "
        "(learning_rate_init of mlp, eta0 of sgd) or a larger alpha may cure it."
    )
