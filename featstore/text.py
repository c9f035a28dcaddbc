"""Sizes, durations, lists and safe file names as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

RESUME_HINT = "What is finished is kept; the same command goes on from there."


def is_random(weights: object) -> bool:
    """Return whether weights, by their name, are random ones, which stand for a baseline."""
    return str(weights).startswith("random:")


def matches(full: str, name: str) -> bool:
    """Return whether a set or run can be called so: by how its name begins or ends."""
    return bool(name) and (full.startswith(name) or full.endswith(name))


def as_list(value: str | Sequence[str] | None) -> list[Any]:
    """Return the names asked for, given as one or as several; None, for any, where there are none.

    Parameters
    ----------
    value : str, sequence of str, or None

    Returns
    -------
    list of str or None
        Of at least one.
    """
    if value is None or isinstance(value, str):
        return [value]
    return list(value) or [None]


def model_text(model: object, weights: object) -> str:
    """Return a network's name for people, which tells when it was never trained."""
    return f"{model} ({weights})" if is_random(weights) else str(model)


def duration_text(duration_s: float) -> str:
    """Return a rough time for people."""
    if duration_s < 90:
        return f"{duration_s:.0f} s"
    if duration_s < 5400:
        return f"{duration_s / 60:.0f} min"
    return f"{duration_s / 3600:.1f} h"


def nbytes_text(nbytes: float) -> str:
    """Return a number of bytes for people, in powers of ten as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit in ("B", "kB") else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def parse_nbytes(text: str) -> int:
    """Return the bytes of a size such as ``8GB``; ValueError says what is wrong with others."""
    from dask.utils import parse_bytes

    try:
        nbytes = int(parse_bytes(text))
    except (ValueError, OverflowError):
        nbytes = 0
    if nbytes <= 0:
        raise ValueError(f"{text!r} is not a size; use e.g. 8GB.")
    return nbytes


def parse_integers(text: str) -> list[int]:
    """Return the numbers of a list such as ``100,200,400``; ValueError says what is wrong."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is not a list of whole numbers; use e.g. 100,200.") from None


def file_name(text: str, limit: int = 80) -> str:
    """Return `text` as a name that every file system takes."""
    return re.sub(r"[^\w.@+=-]+", "-", text, flags=re.ASCII).strip("-.")[:limit] or "unnamed"
