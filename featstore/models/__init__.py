"""Models: networks and pixel statistics, which turn images into feature vectors."""

from featstore._lazy import attach

# `import featstore.models` loads no torch.
__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Backbone": "featstore.models.backbone",
        "Layer": "featstore.models.base",
        "Preprocess": "featstore.models.preprocess",
        "backbone_names": "featstore.models.names",
        "feature_names": "featstore.models.pixelstats",
        "find_layers": "featstore.models.networks",
        "network_layers": "featstore.models.networks",
        "pixel_statistics": "featstore.models.pixelstats",
    },
)
