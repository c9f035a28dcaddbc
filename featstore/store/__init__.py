"""The feature store: write, find, select, verify and export feature sets."""

from featstore._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Damage": "featstore.store.verification",
        "FeatureSet": "featstore.store.feature_set",
        "FeatureStore": "featstore.store.feature_store",
        "LayerRecord": "featstore.store.format.layer_schema",
        "Matrix": "featstore.store.format.matrix",
        "Selection": "featstore.store.selection",
        "SetRecord": "featstore.store.format.set_schema",
        "count_leaked": "featstore.store.leaks",
        "export": "featstore.store.exports",
        "leaked": "featstore.store.leaks",
        "schedule_repair": "featstore.store.verification",
        "verify": "featstore.store.verification",
    },
)
