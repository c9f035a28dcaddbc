"""Frozen CNN features for remote-sensing images: extract once, classify in minutes.

>>> import featstore
>>> featstore.extract("resnet50", "sat4", root="data")  # doctest: +SKIP
>>> featstore.fit("feature-store", "logreg")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "compare": "featstore.runs.compare",
    "extract": "featstore.extraction.extract",
    "find_neighbors": "featstore.inference.neighbors",
    "fit": "featstore.fitting.fit",
    "learning_curve": "featstore.fitting.learning_curve",
    "map_scene": "featstore.inference.maps.map_scene",
    "open_dataset": "featstore.datasets",
    "open_store": "featstore.store.feature_store",
    "predict": "featstore.inference.predict",
    "write_report": "featstore.report.write",
}


__all__ = [
    "compare",
    "extract",
    "find_neighbors",
    "fit",
    "learning_curve",
    "map_scene",
    "open_dataset",
    "open_store",
    "predict",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Imported when first used: `import featstore` loads neither torch nor scikit-learn.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'featstore' has no attribute {name!r}")
