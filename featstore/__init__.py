"""Frozen CNN features for remote-sensing images: extract once, classify in minutes.

>>> import featstore
>>> featstore.extract("resnet50", "sat4", root="data")  # doctest: +SKIP
>>> featstore.fit(clf="logreg")  # doctest: +SKIP
"""

from featstore._lazy import attach

# `import featstore` loads neither torch nor scikit-learn.
__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "__version__": "featstore.environment",
        "FeatureExtractor": "featstore.extraction.feature_extractor",
        "compare": "featstore.runs.compare",
        "extract": "featstore.extraction.extract",
        "find_neighbors": "featstore.inference.neighbors",
        "fit": "featstore.fitting.fit",
        "import_features": "featstore.extraction.import_features",
        "learning_curve": "featstore.fitting.learning_curve",
        "map_scene": "featstore.inference.maps.map_scene",
        "open_dataset": "featstore.datasets",
        "open_store": "featstore.store.feature_store",
        "predict": "featstore.inference.predict",
        "train": "featstore.training.train",
        "write_report": "featstore.report.write",
    },
)
