"""Runs as tables, figures and one HTML page, with the paper's results beside them."""

from featstore._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Cell": "featstore.report.table",
        "Example": "featstore.report.misclassified",
        "Mistake": "featstore.report.misclassified",
        "Projection": "featstore.report.charts",
        "StudyLayers": "featstore.report.paper",
        "Table": "featstore.report.table",
        "compare_published": "featstore.report.summaries",
        "find_mistakes": "featstore.report.misclassified",
        "project": "featstore.report.charts",
        "study_layers": "featstore.report.paper",
        "study_models": "featstore.report.paper",
        "summarize": "featstore.report.summaries",
        "write_explorer": "featstore.report.explorer_page",
    },
)
