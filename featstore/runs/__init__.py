"""Runs: fitted classifiers with their scores, predictions and models, and comparisons of them."""

from featstore._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Calibrator": "featstore.runs.calibration",
        "ClassDifference": "featstore.runs.compare",
        "Comparison": "featstore.runs.compare",
        "Metrics": "featstore.store.format.run_scores",
        "MultilabelMetrics": "featstore.store.format.run_scores",
        "MultilabelScores": "featstore.store.format.run_scores",
        "RegressionMetrics": "featstore.store.format.run_scores",
        "RegressionScores": "featstore.store.format.run_scores",
        "Run": "featstore.runs.run",
        "RunRecord": "featstore.store.format.run_schema",
        "ScoreComparison": "featstore.runs.score_comparison",
        "Scores": "featstore.store.format.run_scores",
        "accuracy_interval": "featstore.runs.significance",
        "difference_interval": "featstore.runs.significance",
        "list_runs": "featstore.runs.opening",
        "mcnemar": "featstore.runs.significance",
        "open_run": "featstore.runs.opening",
        "to_pandas": "featstore.runs.frame",
    },
)
