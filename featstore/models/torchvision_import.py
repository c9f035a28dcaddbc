"""Import torchvision, and list layers, without PyTorch's compiler, whose import takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch  # noqa: F401 - torchvision would import it where the stand-in is

COMPILER = "torch._dynamo"


ASKED = f"{COMPILER}.utils"
"""torchvision imports one function of this module, for an operation that it rarely calls."""


@contextmanager
def _stand_in(name: str, **functions: Callable[..., Any]) -> Iterator[None]:
    """Let a module with some functions be imported in place of one of the compiler's."""
    if COMPILER in sys.modules:
        yield
        return
    sys.modules[name] = module = ModuleType(name)
    vars(module).update(functions)
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def without_compiler() -> Iterator[None]:
    """Let operations on tensors without data leave the compiler alone, which hides them from it."""
    hidden = []

    def disable(function: Any, *_: Any, **__: Any) -> Any:
        hidden.append(function)
        return function

    with _stand_in(COMPILER, disable=disable):
        try:
            yield
        finally:
            for function in hidden:
                # torch keeps there what the compiler gives.
                vars(function).pop("__dynamo_disable", None)


with _stand_in(ASKED, is_compile_supported=lambda t: import_module(ASKED).is_compile_supported(t)):
    import torchvision
    import torchvision.models
    import torchvision.models.feature_extraction
    import torchvision.ops

__all__ = ["torchvision", "without_compiler"]
