"""Import torchvision without PyTorch's compiler, which takes as long to import as PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import torch  # noqa: F401 - torchvision would import it where the stand-in is

ASKED = "torch._dynamo.utils"
"""torchvision imports one function of this module, for an operation that it rarely calls."""


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Let the function's module be imported at the function's first call."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    stand_in = ModuleType(ASKED)
    stand_in.is_compile_supported = (  # type: ignore[attr-defined]
        lambda device_type: import_module(ASKED).is_compile_supported(device_type)
    )
    sys.modules[ASKED] = stand_in
    try:
        yield
    finally:
        del sys.modules[ASKED]


with _without_compiler():
    import torchvision
    import torchvision.models
    import torchvision.models.feature_extraction
    import torchvision.ops

__all__ = ["torchvision"]
