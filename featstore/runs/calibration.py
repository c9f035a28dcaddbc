"""Turn a classifier's scores into calibrated probabilities, and measure how well they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

N_BINS = 15
"""Bins of the expected calibration error, as in Guo et al. 2017 (arXiv:1706.04599)."""


DECISION, LOG_PROBABILITY, LOGIT = "decision value", "log-probability", "logit"
"""What a calibrator takes: a model's decision function, or its probabilities p as log(p), or, of
several classes, as log(p / (1 - p))."""


PROBABILITY, UNCALIBRATED = "probability", "uncalibrated probability"
"""Kinds of scores: calibrated probabilities, and those that the classifier itself gives."""


@dataclass(frozen=True)
class Calibrator:
    """Turns the scores of a classifier into calibrated probabilities.

    Parameters
    ----------
    kind : str
        ``temperature`` for images of one class each: ``softmax(scores / temperature)``. ``sigmoid``
        for images of several classes: ``1 / (1 + exp(-(slope * score + intercept)))`` for each
        class.
    scores : str
        The scores that it takes. ``decision value``: the model's ``decision_function``; where that
        is one value z for two classes, their scores are -z / 2 and z / 2. ``log-probability``:
        ``log(p + floor)``, ``logit``: ``log((p + floor) / (1 - p + floor))``, of the model's
        ``predict_proba``.
    floor : float
        Keeps the logarithms of 0 finite.
    temperature : float
        1 for sigmoids.
    slopes, intercepts : tuple of float
        One of each class, for sigmoids.
    fitted_on : str
        The rows whose scores fitted it, for people. None of them trained the model that scored it.
    n_samples : int
        Number of these rows.

    References
    ----------
    Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599. Platt 1999,
    Probabilistic Outputs for Support Vector Machines.
    """

    kind: str
    scores: str
    floor: float
    temperature: float
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    fitted_on: str
    n_samples: int

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_classes), or (n_samples,) of two classes
            What the model's ``decision_function`` or ``predict_proba`` returns, by `scores`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            The largest is that of the class with the largest score.
        """
        # Lists of runs load this module, and scipy takes longer than they do.
        from scipy.special import expit, softmax

        scores = score_values(values, self.scores, self.floor)
        if self.kind == "temperature":
            probabilities: np.ndarray = softmax(scores / self.temperature, axis=1)
        else:
            probabilities = expit(scores * np.array(self.slopes) + np.array(self.intercepts))
        return probabilities

    @property
    def text(self) -> str:
        """How the probabilities are calibrated, in words."""
        how = f"temperature {self.temperature:.3g}"
        if self.kind != "temperature":
            how = "a sigmoid for each class"
        return f"calibrated: {how}, fitted on {self.n_samples:,} {self.fitted_on}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        lists = {"slopes": list(self.slopes), "intercepts": list(self.intercepts)}
        return asdict(self) | lists

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_dict`'s result."""
        lists = {name: tuple(values[name]) for name in ("slopes", "intercepts")}
        return cls(**{**values, **lists})


def score_values(values: np.ndarray, scores: str, floor: float) -> np.ndarray:
    """Return what a model gives as scores of each class, (n_samples, n_classes) float64."""
    values = np.asarray(values, np.float64)
    if values.ndim == 1:
        values = np.stack([-values / 2, values / 2], axis=1)
    if scores == LOG_PROBABILITY:
        values = np.log(values + floor)
    elif scores == LOGIT:
        values = np.log((values + floor) / (1 - values + floor))
    return values


def measure_reliability(probabilities: np.ndarray, is_right: np.ndarray) -> dict[str, Any]:
    """Compare probabilities with how often they come true.

    Parameters
    ----------
    probabilities : ndarray of shape (n,), float
    is_right : ndarray of shape (n,), bool
        Whether what has the probability is true.

    Returns
    -------
    dict
        ``ece``, the expected calibration error (a fraction): the mean over 15 bins of equal width
        of the gap between mean probability and share of right ones, weighted by the bins' numbers;
        Naeini et al. 2015 (AAAI, 2901-2907), Guo et al. 2017 (arXiv:1706.04599). ``bins``:
        ``n_samples``, ``probability`` and ``share`` of each bin that has any.
    """
    p = np.asarray(probabilities, np.float64)
    at = np.clip(np.ceil(p * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    counts = np.bincount(at, minlength=N_BINS)
    used = np.flatnonzero(counts)
    mean, share = (np.bincount(at, of, N_BINS)[used] / counts[used] for of in (p, is_right))
    return {
        "ece": float(np.abs(mean - share) @ counts[used] / len(p)),
        "bins": [
            {"n_samples": int(n), "probability": float(m), "share": float(s)}
            for n, m, s in zip(counts[used], mean, share, strict=True)
        ],
    }
