"""Frozen CNN features for remote-sensing images: extract once, classify in minutes.

>>> import featstore
>>> featstore.extract("resnet50", "sat4", root="data")  # doctest: +SKIP
>>> featstore.fit("feature-store", "logreg")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.comparison import compare
    from featstore.datasets import open_dataset
    from featstore.extraction import extract
    from featstore.fitting import fit
    from featstore.learning import learning_curve
    from featstore.lookalikes import find_neighbors
    from featstore.mapping import map_scene
    from featstore.prediction import predict
    from featstore.report import write_report
    from featstore.store import open_store

_HOMES = {
    "compare": "featstore.comparison",
    "extract": "featstore.extraction",
    "find_neighbors": "featstore.lookalikes",
    "fit": "featstore.fitting",
    "learning_curve": "featstore.learning",
    "map_scene": "featstore.mapping",
    "open_dataset": "featstore.datasets",
    "open_store": "featstore.store",
    "predict": "featstore.prediction",
    "write_report": "featstore.report",
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
