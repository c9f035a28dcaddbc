"""The paper's comparison of networks and layers, and of the methods that it names."""

from featstore._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "QUICK_IMAGES": "featstore.study.plan",
        "Outcome": "featstore.study.run",
        "Step": "featstore.study.plan",
        "Study": "featstore.study.plan",
        "reproduce": "featstore.study.run",
        "steps": "featstore.study.plan",
    },
)
