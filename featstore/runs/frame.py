"""Runs as a pandas table."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from featstore.runs.run import Run


def to_pandas(runs: Iterable[Run]) -> pd.DataFrame:
    """Return runs as a table, one row each, the best test score first; by task, if there are more.

    Parameters
    ----------
    runs : iterable of Run
        Such as :func:`featstore.runs.list_runs` returns.

    Returns
    -------
    pandas.DataFrame
        The columns of :meth:`Run.summary`; accuracies are fractions, ``duration_s`` is in seconds.
        A test score must not choose a run: see ``cv_accuracy``, and the mean over a ``series``.
    """
    ordered = sorted(runs, key=lambda run: (run.task, -run.score))
    return pd.DataFrame([run.summary() for run in ordered])
