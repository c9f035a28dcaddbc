"""Signatures that name every setting, of functions that hand settings on to a configuration."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast

from featstore.text import did_you_mean

F = TypeVar("F", bound=Callable[..., Any])

Setting = inspect.Parameter


def settings_of(
    config: type[Any], only: Sequence[str] | None = None, but: Sequence[str] = ()
) -> list[Setting]:
    """Return settings of a configuration's class as keyword parameters, all if `only` is None."""
    return [
        Setting(field.name, Setting.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(config)
        if field.name not in but and (only is None or field.name in only)
    ]


def settings_named(names: Sequence[str]) -> list[Setting]:
    """Return settings that are texts, and None by default, as keyword parameters."""
    kind = Setting.KEYWORD_ONLY
    return [Setting(name, kind, default=None, annotation="str | None") for name in names]


def keywords_of(function: Callable[..., Any], but: Sequence[str] = ()) -> list[Setting]:
    """Return the keyword parameters of a function."""
    found = inspect.signature(function).parameters.values()
    return [p for p in found if p.kind is Setting.KEYWORD_ONLY and p.name not in but]


def takes(*settings: Setting) -> Callable[[F], F]:
    """Name settings in a function's signature in place of its ``**options``; refuse any other."""

    def decorate(function: F) -> F:
        own = inspect.signature(function).parameters.values()
        shown = [p for p in own if p.kind is not Setting.VAR_KEYWORD]
        known = {p.name for p in (*shown, *settings)}

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if unknown := [name for name in options if name not in known]:
                hint = did_you_mean(unknown[0], known)
                raise TypeError(
                    f"{function.__name__}() got an unexpected argument {unknown[0]!r}.{hint}"
                )
            return function(*args, **options)

        call.__signature__ = inspect.Signature([*shown, *settings])  # type: ignore[attr-defined]
        return cast(F, call)

    return decorate
