"""Sizes, durations, lists, names and their misspellings as text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from featstore.errors import SelectionError

NONE = "–"
"""Stands in a table for a value that is not there."""


RESUME_HINT = "What is finished is kept; the same command continues."


def is_random(weights: object) -> bool:
    """Return whether a name of weights (several joined by ``+``) has random ones among them."""
    return "+random:" in f"+{weights}"


def matches(full: str, name: str) -> bool:
    """Return whether `name` begins or ends the full name of a set or run, or begins its key."""
    key = full.rpartition("-")[2]
    return bool(name) and (full.startswith(name) or full.endswith(name) or key.startswith(name))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the known names most like a wrong one; empty without any."""
    by_fold = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), by_fold, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(by_fold[one] for one in close)}?" if close else ""


MIN_END = 6
"""Characters of an id, from its end, that are enough to remove what it names."""


def refuse_short_name(full: str, name: str) -> None:
    """Refuse to remove a set or run by too small a part of its id."""
    key = full.rpartition("-")[2]
    is_part = full.endswith(name) or key.startswith(name)
    if name != full and (len(name) < MIN_END or not is_part):
        raise SelectionError(
            f"{name!r} is too little of a name to remove by; give all of {full}, or at least the "
            f"last {MIN_END} characters."
        )


def as_list(value: str | Sequence[str] | None) -> list[Any]:
    """Return one name or several as a list; no name becomes ``[None]``, which means any."""
    if value is None or isinstance(value, str):
        return [value]
    return list(value) or [None]


def model_text(model: object, weights: object) -> str:
    """Return a network's name for people, with its weights where they are random."""
    return f"{model} ({weights})" if is_random(weights) else str(model)


def run_text(model: object, weights: object, layers: Iterable[str], clf: str) -> str:
    """Return a run's name for people: network, layers and classifier."""
    return f"{model_text(model, weights)} {'+'.join(layers)} · {clf}"


MAX_LISTED = 20
"""Names of sets that a message lists; the others it counts."""


def join_some(names: Sequence[object], limit: int = 5) -> str:
    """Return names as a list in a sentence; of more than `limit`, the first ones and a count."""
    shown = ", ".join(map(str, names[:limit]))
    n_left = len(names) - limit
    return f"{shown} and {n_left:,} more" if n_left > 0 else shown


def percent(value: float | None) -> str:
    """Return a fraction as percent with one decimal."""
    return NONE if value is None else f"{100 * value:.1f}"


def number_text(value: float) -> str:
    """Return a number for people, with at most four digits behind the first one."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration_text(duration_s: float) -> str:
    """Return a duration for people, in at most two units."""
    if duration_s < 59.95:
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    units = [(hours, "h"), (minutes, "min")] if hours else [(minutes, "min"), (seconds, "s")]
    return " ".join(f"{n} {unit}" for n, unit in units if n)


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


def no_formula(text: str) -> str:
    """Return a text for a CSV file with a ' in front if a spreadsheet would take it for a formula.

    So it does with a formula that has such a ' already; :func:`from_csv` gives the text back.
    https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def from_csv(text: str) -> str:
    """Return the text that :func:`no_formula` was given."""
    return text.removeprefix("'") if text.lstrip("'").startswith(_FORMULA) else text


_FORMULA = ("=", "+", "-", "@", "\t")
"""First characters of a formula."""


_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters that move a terminal's cursor, change its state, or hide what a line says."""


def printable(text: str, keep: str = "") -> str:
    """Return a text with control characters escaped, except those in `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(),
        text,
    )


def printable_json(text: str) -> str:
    """Return a JSON text of the same content, in which such characters are escaped."""
    return _UNSAFE.sub(
        lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text
    )


def file_name(text: str, limit: int = 80) -> str:
    """Return `text` as a name that every file system takes."""
    return re.sub(r"[^\w.@+=-]+", "-", text, flags=re.ASCII).strip("-.")[:limit] or "unnamed"
