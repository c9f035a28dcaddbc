"""Runs: fitted classifiers with their scores, predictions and models, and comparisons of them."""

from featstore._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "ClassDifference": "featstore.runs.compare",
        "Comparison": "featstore.runs.compare",
        "Metrics": "featstore.store.format.run_schema",
        "Run": "featstore.runs.run",
        "RunRecord": "featstore.store.format.run_schema",
        "Scores": "featstore.store.format.run_schema",
        "accuracy_interval": "featstore.runs.significance",
        "difference_interval": "featstore.runs.significance",
        "list_runs": "featstore.runs.run",
        "mcnemar": "featstore.runs.significance",
        "open_run": "featstore.runs.run",
        "to_pandas": "featstore.runs.frame",
    },
)
