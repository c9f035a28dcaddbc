"""The scores in the record of a run, by what a label is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from featstore.store.format.fields import Count, Fraction, Items, Real, RecordPart, Text

MAX_DENSE_CLASSES = 100
"""Largest number of classes for which a confusion matrix counts every pair."""


class ReliabilityBin(RecordPart):
    """The predictions of similar probability."""

    n_samples: Count
    probability: Fraction
    share: Fraction


class Reliability(RecordPart):
    """How well probabilities hold on the test rows.

    Parameters
    ----------
    ece : float
        Expected calibration error, a fraction, over 15 bins of equal width: Naeini et al. 2015
        (AAAI, 2901-2907), Guo et al. 2017 (arXiv:1706.04599).
    bins : tuple of ReliabilityBin
        ``n_samples``, mean ``probability`` and ``share`` of right ones of each bin that has any.
    """

    ece: Fraction
    bins: Items[ReliabilityBin]


Interval = Annotated[Items[Real], Field(min_length=2, max_length=2)]


class Bootstrap(RecordPart):
    """The 95 % intervals of test scores, from drawing the test rows again.

    Parameters
    ----------
    n_draws, seed : int
    unit : str
        ``image``, or ``group`` where the test images have groups, which are drawn whole.
    n_units : int
        Number of test images, or of groups.
    intervals : dict
        Two fractions by score; None for a kappa that a draw leaves undefined.
    """

    n_draws: Count
    seed: Count
    unit: Literal["image", "group"]
    n_units: Count
    intervals: Annotated[
        dict[Literal["accuracy", "average_accuracy", "kappa"], Interval | None], Field(min_length=3)
    ]


class ClassScores(RecordPart):
    """The scores of one class."""

    name: Text
    precision: Fraction
    recall: Fraction | None
    f1: Fraction
    support: Count


class Scores(RecordPart):
    """The scores of one split, as :func:`featstore.fitting.evaluate.score` returns them.

    Parameters
    ----------
    n_samples : int
    accuracy : float
        Overall, a fraction.
    average_accuracy : float
        Mean recall of the classes that have rows.
    kappa : float or None
        Cohen's; None if true and predicted labels are all of one class.
    majority_accuracy : float
        Accuracy of always predicting the most frequent class.
    per_class : tuple of ClassScores
        ``name``, ``precision``, ``recall``, ``f1``, ``support`` of each class.
    confusion : tuple of tuple of int
        Counts; rows are true classes. With more than 100 classes, ``(true, predicted, count)`` of
        each pair of classes that occurs.
    reliability : Reliability or None
        Of the probabilities of the predicted classes; None without probabilities, and for
        validation rows.
    bootstrap : Bootstrap or None
        The 95 % intervals; None for validation rows, and of older runs.
    """

    n_samples: Count
    accuracy: Fraction
    average_accuracy: Fraction
    kappa: Fraction | None
    majority_accuracy: Fraction
    per_class: Items[ClassScores]
    confusion: Items[Items[Count]]
    reliability: Reliability | None = None
    bootstrap: Bootstrap | None = None


class TrainScores(RecordPart):
    """The accuracy on training rows."""

    accuracy: Fraction
    n_samples: Count


class Metrics(RecordPart):
    """The scores of a run.

    Parameters
    ----------
    test : Scores
    val : Scores or None
        None without validation rows.
    train : TrainScores
        ``accuracy`` and ``n_samples``.
    """

    test: Scores
    val: Scores | None
    train: TrainScores


class LabelScores(RecordPart):
    """The scores of one class among several; None without images of the class."""

    name: Text
    average_precision: Fraction | None
    precision: Fraction
    recall: Fraction | None
    f1: Fraction
    support: Count


class MultilabelScores(RecordPart):
    """The scores of one split where images have several classes.

    Parameters
    ----------
    n_samples : int
    map : float
        Mean average precision: the mean over the classes that have images.
    map_interval : tuple of (float, float)
        Its 95 % interval.
    chance_map : float
        What scores drawn at random would reach: the mean share of images with the class.
    micro_f1 : float
        F1 of all pairs of an image and a class.
    macro_f1 : float
        Mean F1 over the classes that have images.
    subset_accuracy : float
        Share of images whose classes are all right and complete.
    threshold : float
        Score above which an image has a class, for F1 and `subset_accuracy`.
    n_unscored : int
        Number of classes without images, which the means leave out.
    per_class : tuple of LabelScores
        ``name``, ``average_precision``, ``precision``, ``recall``, ``f1``, ``support`` of each.
    reliability : Reliability or None
        Of the probabilities of all pairs of an image and a class; None as of :class:`Scores`.
    """

    n_samples: Count
    map: Fraction
    map_interval: Interval
    chance_map: Fraction
    micro_f1: Fraction
    macro_f1: Fraction
    subset_accuracy: Fraction
    threshold: Real
    n_unscored: Count
    per_class: Items[LabelScores]
    reliability: Reliability | None = None


class MultilabelTrainScores(RecordPart):
    """The mean average precision on training rows."""

    map: Fraction
    n_samples: Count


class MultilabelMetrics(RecordPart):
    """The scores of a run whose images have several classes: ``test``, ``val``, ``train``."""

    test: MultilabelScores
    val: MultilabelScores | None
    train: MultilabelTrainScores


class RegressionScores(RecordPart):
    """The scores of one split where each image has a number, in the number's own unit.

    Parameters
    ----------
    n_samples : int
    r2 : float or None
        Coefficient of determination; None if all true numbers are equal.
    mae, rmse : float
        Mean absolute error, and root of the mean squared error.
    r2_interval, mae_interval, rmse_interval : tuple of (float, float)
        Their 95 % intervals.
    """

    n_samples: Count
    r2: Real | None
    r2_interval: Interval | None
    mae: Real
    mae_interval: Interval
    rmse: Real
    rmse_interval: Interval


class RegressionTrainScores(RecordPart):
    """The coefficient of determination on training rows."""

    r2: Real | None
    n_samples: Count


class RegressionMetrics(RecordPart):
    """The scores of a run that predicts a number: ``test``, ``val``, ``train``."""

    test: RegressionScores
    val: RegressionScores | None
    train: RegressionTrainScores


SCORES = {"classification": "accuracy", "multilabel": "map", "regression": "r2"}
"""The score of each task by which settings and runs are ranked."""


_MODELS = {
    "classification": Metrics,
    "multilabel": MultilabelMetrics,
    "regression": RegressionMetrics,
}


def task_of(metrics: Any) -> str:
    """Return the task of metrics, or of their JSON-able values."""
    if isinstance(metrics, RecordPart):
        return next(task for task, model in _MODELS.items() if isinstance(metrics, model))
    test = metrics.get("test") if isinstance(metrics, Mapping) else None
    held = test if isinstance(test, Mapping) else {}
    return next((task for task, score in SCORES.items() if score in held), "classification")


AnyMetrics = Annotated[
    Annotated[Metrics, Tag("[classification]")]
    | Annotated[MultilabelMetrics, Tag("[multilabel]")]
    | Annotated[RegressionMetrics, Tag("[regression]")],
    Discriminator(lambda metrics: f"[{task_of(metrics)}]"),
]


def _wrong_pair(pairs: tuple[tuple[int, ...], ...], n_classes: int) -> str | None:
    for i, pair in enumerate(pairs):
        if len(pair) != 3 or max(pair[:2]) >= n_classes:
            return f"{i}: {pair} is not two of {n_classes} classes and a count"
    return None


def wrong_length(metrics: AnyMetrics, n_classes: int) -> str | None:
    """Return which list of scores has not one value for each class, or None."""
    lengths = {}
    for split in ("test", "val"):
        scores = getattr(metrics, split)
        if scores is None or isinstance(scores, RegressionScores):
            continue
        lengths[f"metrics.{split}.per_class"] = len(scores.per_class)
        if not isinstance(scores, Scores):
            continue
        if n_classes > MAX_DENSE_CLASSES:
            if wrong := _wrong_pair(scores.confusion, n_classes):
                return f"metrics.{split}.confusion.{wrong}"
            continue
        lengths[f"metrics.{split}.confusion"] = len(scores.confusion)
        for i, row in enumerate(scores.confusion):
            lengths[f"metrics.{split}.confusion.{i}"] = len(row)
    for place, length in lengths.items():
        if length != n_classes:
            return f"{place}: {length} values of {n_classes} classes"
    return None
