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
    Real,
    Record,
    RecordPart,
    Seconds,
    Text,
    Width,
)
from featstore.store.format.run_scores import SCORES, AnyMetrics, task_of, wrong_length
from featstore.store.format.set_schema import BackboneInfo, PreprocessInfo


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
    scale: Text | None = None
    protocol: Text | None = None
    calibrate: bool = False
    device: Text
    intelex: bool


class SearchResult(RecordPart):
    """The settings that a search for parameters tried, and the best one.

    The best one's mean score over the folds is called ``accuracy``, ``map`` or ``r2``, as the task
    has it. A ``deviation`` needs two folds; validation images are one.
    """

    kind: Text
    cv: Count
    seed: Count
    best: dict[str, Any]
    accuracy: Fraction | None = None
    map: Fraction | None = None
    r2: Real | None = None
    deviation: Real | None
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
    n_train_of_class: Items[Count]
    split: Text = ""
    n_cut_groups: Count = 0
    n_test_groups: Count = 0


class CalibrationInfo(RecordPart):
    """The calibration of a run's probabilities: a :class:`featstore.runs.calibration.Calibrator`.

    The scores are brought between classes by ``temperature`` (of one class each), or by ``slopes``
    and ``intercepts`` of each class.
    """

    kind: Literal["temperature", "sigmoid"]
    scores: Literal["decision value", "log-probability", "logit"]
    floor: Annotated[Real, Field(ge=0)]
    temperature: Annotated[Real, Field(gt=0)]
    slopes: Items[Annotated[Real, Field(gt=0)]]
    intercepts: Items[Real]
    fitted_on: Text
    n_samples: Count


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
    task : str
        What a label is, one of :data:`featstore.config.TASKS`.
    class_names : tuple of str
        Empty for a run that predicts a number.
    target_name : str
        Name of the number that the run predicts; empty for classes.
    rows : RowCounts
        ``n_train``, ``n_test``, ``n_val``, ``test_split``, ``n_masked``, ``n_unlabelled``,
        ``n_leaked``, ``n_dropped``, ``n_train_of_class``, ``split`` (how the rows were divided,
        for people), ``n_cut_groups`` (groups with rows to train on and rows to test with),
        ``n_test_groups`` (groups of test rows, which intervals take as the units).
    n_constant_features : int
    metrics : Metrics, MultilabelMetrics or RegressionMetrics
    score_kind : str
        The kind of the predictions' scores: ``probability``, ``uncalibrated probability``,
        ``decision value``, or ``number`` where the prediction is the number itself. A
        ``probability`` without a `calibration` is the classifier's own.
    calibration : CalibrationInfo or None
        What makes the model's scores probabilities.
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
    task: Literal["classification", "multilabel", "regression"] = "classification"
    class_names: Items[Text]
    target_name: Text = ""
    rows: RowCounts
    n_constant_features: Count
    metrics: AnyMetrics
    score_kind: Text
    calibration: CalibrationInfo | None = None
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
        if task_of(self.metrics) != self.task:
            return f"metrics: those of another task than {self.task}"
        score = SCORES[self.task]
        if self.search is not None and getattr(self.search, score) is None:
            return f"search.{score}: Field required"
        n_classes = len(self.class_names)
        if bool(n_classes) == (self.task == "regression"):
            return f"class_names: {n_classes} names, and the task is {self.task}"
        if len(self.rows.n_train_of_class) != n_classes:
            n = len(self.rows.n_train_of_class)
            return f"rows.n_train_of_class: {n} values of {n_classes} classes"
        if self.calibration is not None and self.calibration.kind == "sigmoid":
            for name in ("slopes", "intercepts"):
                if (n := len(getattr(self.calibration, name))) != n_classes:
                    return f"calibration.{name}: {n} values of {n_classes} classes"
        return wrong_length(self.metrics, n_classes)
