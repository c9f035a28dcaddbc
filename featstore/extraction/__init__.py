"""Stage one: a dataset's images through a model into the feature store."""

from featstore._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {"Extraction": "featstore.extraction.result"})
