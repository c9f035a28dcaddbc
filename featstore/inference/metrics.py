"""Find how features are compared: by a metric, or in a projection that a run has learned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.preprocessing import StandardScaler

from featstore.config import METRICS
from featstore.errors import ConfigError, RunError
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.solvers.scaling import fit_scaler
from featstore.fitting.solvers.triplet import TripletClassifier
from featstore.inference.stored_features import is_same
from featstore.runs.opening import open_run
from featstore.store.feature_store import FeatureStore
from featstore.store.selection import Selection


@dataclass(frozen=True)
class Metric:
    """The name of a metric, and how features are compared by it."""

    name: str
    kind: str
    scaler: StandardScaler
    projection: np.ndarray | None = None


def find_metric(
    metric: str, selection: Selection, fitted: np.ndarray, store: FeatureStore
) -> Metric:
    """Return a metric by its name, or by that of a run that has learned it.

    `fitted` are the rows that standardise features where no run has.
    """
    if metric in METRICS:
        return Metric(metric, metric, fit_scaler(Samples(selection.memmap(), fitted)))
    try:
        run = open_run(metric, store)
    except RunError as error:
        raise ConfigError(
            f"metric is {metric!r}; it must be one of {', '.join(METRICS)}, or a run of "
            f"--clf triplet. {error}"
        ) from error
    steps = run.model.named_steps
    if not isinstance(steps["clf"], TripletClassifier):
        raise ConfigError(
            f"{run.run_id}, of {run.clf}, has no projection to compare features in. Name a run of "
            "--clf triplet on images of one class each."
        )
    specs, own = run.selection.features, selection.feature_specs
    if len(specs) != len(own) or not all(map(is_same, specs, own)):
        raise ConfigError(
            f"{run.run_id} has learned a projection of {run.selection.model} "
            f"{','.join(run.selection.layers)}; these are other features. Fit --clf triplet on "
            "them."
        )
    return Metric(run.run_id, METRICS[0], steps["scale"], steps["clf"].components_)
