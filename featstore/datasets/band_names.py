"""Which bands of a file are red, green, blue and near infrared: what the file itself says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from featstore.errors import ConfigError

COLORS = ("red", "green", "blue", "nir")


NAMED = re.compile(
    r"(?:band|b)?[\s_-]*\d*[\s:._-]*"
    r"(?:(red|r)|(green|g)|(blue|b)|(nir|near[\s_-]?infra[\s_-]?red))(?:[\s_-]*band)?"
)
"""A band's description that is a color's name, such as ``Red``, ``B4: red`` or ``band_8_nir``."""


def color_of(path: str, band: int, description: str | None, meaning: str) -> str | None:
    """Return the color that a file gives a band, or None; refuse two different ones.

    `meaning` is GDAL's color interpretation.
    """
    named = NAMED.fullmatch((description or "").strip().lower())
    groups = named.groups() if named else ()
    described = next((c for c, text in zip(COLORS, groups, strict=False) if text), None)
    tagged = meaning if meaning in COLORS else None
    if described and tagged and described != tagged:
        raise ConfigError(
            f"{path} contradicts itself: band {band} is described as {described} and tagged as "
            f"{tagged}. Give the bands by number: --bands"
        )
    return described or tagged


MAX_BANDS = 4
"""Bands of a file whose first ones are taken without names: red, green, blue, near infrared."""


def numbers_hint(values: str = "") -> str:
    """Say how the bands of a file without names are chosen; `values` are further options."""
    return (
        f"Give their numbers, such as --bands 4,3,2{values}; or all, where the model takes as many "
        f"(pixelstats, deepsat, rcf, mosaiks, some of torchgeo): --bands all{values}."
    )


def choose_bands(
    path: str, names: Sequence[str], descriptions: Sequence[str | None], meanings: Sequence[str]
) -> tuple[tuple[int, ...], str]:
    """Return the numbers, from 1, of the bands that a run needs, and a message about guesses.

    A band that the file names is taken by its name. For the other `names`, such as ``nir``, the
    first bands without a name are taken, an alpha band last. Too few bands raise ConfigError.
    """
    given = zip(descriptions, meanings, strict=True)
    colors = [
        color_of(path, band, *of) or (of[0] if of[0] in names else None)
        for band, of in enumerate(given, 1)
    ]
    if twice := [name for name in names if colors.count(name) > 1]:
        same = " and ".join(str(i) for i, color in enumerate(colors, 1) if color == twice[0])
        raise ConfigError(
            f"{path} calls bands {same} {twice[0]}. Give the bands by number: --bands"
        )
    free = [band for band, color in enumerate(colors, 1) if color is None]
    free.sort(key=lambda band: meanings[band - 1] == "alpha")
    guessed = [name for name in names if name not in colors]
    n_candidates = sum(meanings[band - 1] != "alpha" for band in free)
    if guessed and len(colors) > MAX_BANDS and n_candidates > len(guessed):
        raise ConfigError(
            f"{path} has {len(colors)} bands, and does not name {', '.join(guessed)}. Give the "
            f"numbers of {', '.join(names)}, such as --bands 4,3,2 for all 13 bands of Sentinel-2."
        )
    if len(guessed) > len(free):
        raise ConfigError(
            f"No band of {path} is {guessed[len(free)]}. Give the bands by number; one may stand "
            f"for several: --bands {','.join(['1'] * len(names))}"
        )
    found = dict(zip(guessed, free, strict=False))
    bands = tuple(found[name] if name in found else colors.index(name) + 1 for name in names)
    notes = []
    if bands != tuple(range(1, len(names) + 1)) or (guessed and len(colors) != len(names)):
        notes.append(f"Bands {', '.join(map(str, bands))} are taken as {', '.join(names)}.")
    notes += [
        f"Band {band} is tagged alpha and taken as {name}."
        for name, band in found.items()
        if meanings[band - 1] == "alpha"
    ]
    return bands, " ".join([*notes, "Others: --bands"]) if notes else ""
