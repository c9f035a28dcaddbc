"""Checks of single settings; what is out of its range raises ConfigError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from featstore.errors import ConfigError


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among those allowed."""
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")


def check_integer(name: str, value: Any, low: int, high: int) -> None:
    """Refuse what is not a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number from {low} to {high}.")


NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def check_range(text: str) -> None:
    """Refuse what is neither LOW,HIGH for one or each band, nor two percentiles."""
    pairs = text.removeprefix("percentile:").split(";")
    is_percentile = text.startswith("percentile:")
    for pair in pairs:
        ends = [float(end) for end in pair.split(",") if re.fullmatch(NUMBER, end.strip())]
        is_pair = pair.count(",") == 1 and len(ends) == 2 and ends[0] < ends[1]
        if not is_pair or (
            is_percentile and not (len(pairs) == 1 and 0 <= ends[0] <= ends[1] <= 100)
        ):
            raise ConfigError(
                f"The range is {text!r}; give LOW,HIGH, such as 0,3000, or percentile:2,98."
            )


def named_fields(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by name; refuse those that the class does not have."""
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ConfigError(
            f"{cls.__name__} has no setting {', '.join(unknown)}; "
            f"it has {', '.join(sorted(known))}."
        )
    return dict(values)
