"""Stage two: fit and evaluate classifiers on stored features."""

from featstore._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Fit": "featstore.fitting.results",
        "LearningCurve": "featstore.fitting.learning_curve",
        "Point": "featstore.fitting.learning_curve",
        "fit_each": "featstore.fitting.fit",
        "score": "featstore.fitting.evaluate",
        "write_figure": "featstore.fitting.curve_chart",
    },
)
