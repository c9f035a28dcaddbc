"""The record of a run as typed models."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from featstore.store.format.fields import (
    Count,
    Files,
    Fraction,
    Items,
    Name,
    Record,
    RecordPart,
    Seconds,
    Text,
    Width,
)
from featstore.store.format.schema import BackboneInfo, PreprocessInfo


class FitSettings(RecordPart):
    """The settings of a fit, as :meth:`featstore.config.FitConfig.to_dict` returns them."""

    clf: Text
    params: dict[str, Any]
    seed: Count
    search: Text | None
    cv: Count
    n_candidates: Count
    grid: dict[str, Any]
    n_epochs: Count | None
    split_seed: Count | None
    drop_leaks: bool
    device: Text
    intelex: bool


class SearchResult(RecordPart):
    """The settings that a search for parameters tried, and the best one."""

    kind: Text
    cv: Count
    seed: Count
    best: dict[str, Any]
    accuracy: Fraction
    deviation: Fraction
    candidates: Items[dict[str, Any]]


class FeatureSpec(RecordPart):
    """The settings that compute the features of one layer for other images."""

    set_id: Name
    layer: Name
    node: Text
    pool: Text | None
    batch_size: Width
    n_features: Width
    backbone: BackboneInfo
    preprocess: PreprocessInfo


class SelectionInfo(RecordPart):
    """The features of a selection; `digest` changes when the features do."""

    dataset: Text
    title: Text
    model: Text
    layers: Items[Text]
    weights: Text
    precision: Text
    n_samples: Width
    n_features: Width
    fingerprint: Text
    set_ids: Annotated[Items[Name], Field(min_length=1)]
    features: Annotated[Items[FeatureSpec], Field(min_length=1)]
    digest: Text

    @property
    def is_imported(self) -> bool:
        """Whether all features were computed elsewhere."""
        return all(part.backbone.is_imported for part in self.features)


class RowCounts(RecordPart):
    """Numbers of rows that a run was fitted to and tested on."""

    n_train: Count
    n_test: Count
    n_val: Count
    test_split: Literal["train", "test", "val"]
    n_masked: Count
    n_unlabelled: Count
    n_leaked: Count
    n_dropped: Count
    n_train_of_class: Annotated[Items[Count], Field(min_length=1)]
    split: Text = ""
    n_cut_groups: Count = 0


MAX_DENSE_CLASSES = 100
"""Largest number of classes for which a confusion matrix counts every pair."""


def _wrong_pair(pairs: tuple[tuple[int, ...], ...], n_classes: int) -> str | None:
    for i, pair in enumerate(pairs):
        if len(pair) != 3 or max(pair[:2]) >= n_classes:
            return f"{i}: {pair} is not two of {n_classes} classes and a count"
    return None


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
    """

    n_samples: Count
    accuracy: Fraction
    average_accuracy: Fraction
    kappa: Fraction | None
    majority_accuracy: Fraction
    per_class: Items[ClassScores]
    confusion: Items[Items[Count]]


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


class Machine(RecordPart):
    """The machine of a fit."""

    processor: Text
    n_cores: Count


class Provenance(RecordPart):
    """The versions and the machine of a fit."""

    versions: dict[str, Text]
    machine: Machine


class RunRecord(Record):
    """A run, in ``metrics.json``.

    Parameters
    ----------
    format : int
        Format of the store's records.
    key : str
        Digest of everything that the run depends on.
    created : str
        Time, UTC, ISO 8601.
    command : str
        The command that makes the run.
    fit : FitSettings
        The fields of :class:`featstore.config.FitConfig`.
    params : dict
        The classifier's parameters.
    search : SearchResult or None
        ``kind``, ``cv``, ``seed``, ``best``, ``accuracy``, ``deviation``, ``candidates``.
    selection : SelectionInfo
        As :meth:`.Selection.describe` returns it.
    class_names : tuple of str
    rows : RowCounts
        ``n_train``, ``n_test``, ``n_val``, ``test_split``, ``n_masked``, ``n_unlabelled``,
        ``n_leaked``, ``n_dropped``, ``n_train_of_class``, ``split`` (how the rows were divided,
        for people), ``n_cut_groups`` (groups with rows to train on and rows to test with).
    n_constant_features : int
    metrics : Metrics
    score_kind : str
        ``probability`` or ``decision value``: the kind of the predictions' scores.
    source : str or None
        Digest of the code of the user's own classifier.
    converged : bool
    solver : str
    notes : tuple of str
    duration_s : dict of str to float
        By phase, and ``total``.
    peak_rss_nbytes : int
    provenance : Provenance
        ``versions`` and ``machine``.
    folder : str or None
        Folder of the files' upload to object storage.
    files : dict of str to str
        sha256 (hex) of its files, by name.
    """

    FORMAT_CURE: ClassVar[str] = (
        "Remove the folder and fit again, or install the featstore that wrote it."
    )

    format: Count
    key: Text
    created: Text
    command: Text
    fit: FitSettings
    params: dict[str, Any]
    search: SearchResult | None
    selection: SelectionInfo
    class_names: Annotated[Items[Text], Field(min_length=1)]
    rows: RowCounts
    n_constant_features: Count
    metrics: Metrics
    score_kind: Text
    source: Text | None = None
    converged: bool
    solver: Text
    notes: Items[Text]
    duration_s: dict[str, Seconds]
    peak_rss_nbytes: Count
    provenance: Provenance
    folder: Name | None = None
    files: Files

    def _misfit(self, name: str, n_rows: int | None) -> str | None:
        for place, values, needed in (
            ("duration_s", self.duration_s, ["total"]),
            ("provenance.versions", self.provenance.versions, ["scikit-learn"]),
            ("files", self.files, ["model.skops", "predictions.csv"]),
        ):
            if lacking := [one for one in needed if one not in values]:
                return f"{place}: {lacking[0]} is missing"
        n_classes = len(self.class_names)
        lengths = {"rows.n_train_of_class": len(self.rows.n_train_of_class)}
        for split, scores in (("test", self.metrics.test), ("val", self.metrics.val)):
            if scores is not None:
                lengths[f"metrics.{split}.per_class"] = len(scores.per_class)
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
