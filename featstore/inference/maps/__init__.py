"""Maps of the classes of whole scenes."""

from featstore._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "NumberMap": "featstore.inference.maps.result",
        "SceneMap": "featstore.inference.maps.result",
    },
)
