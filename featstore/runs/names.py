"""Names of runs: the same name for the same fit in every table and figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featstore.runs.outline import Outline
from featstore.runs.run import Run
from featstore.text import run_text


def name_fits(runs: Sequence[Run]) -> dict[str, tuple[str, str]]:
    """Return the full name, and the settings in it, of each fit on the same images.

    Keys are :attr:`featstore.runs.run.Run.series`, which the repeats of a fit share. Fits of one
    network, layers and classifier have the settings in which they differ in their names, and
    otherwise the last digits of their runs.
    """
    alike: dict[str, dict[str, Run]] = {}
    for run in runs:
        alike.setdefault(short_name(run), {}).setdefault(run.series, run)
    names = {}
    for name, fits in alike.items():
        settings = differing_settings([_settings(run.outline) for run in fits.values()])
        counts = Counter(settings)
        for (series, run), text in zip(fits.items(), settings, strict=True):
            # Such as the type that features are stored in, or a classifier's source code.
            digits = run.run_id[-8:] if counts[text] > 1 else ""
            told = join([text, digits])
            names[series] = (f"{name} ({told})" if told else name, told)
    return names


def short_name(run: Run) -> str:
    """Return a run's network, layers and classifier."""
    told = run.outline.summary
    return run_text(told["model"], told["weights"], told["layers"], told["clf"])


def _settings(outline: Outline) -> dict[str, str]:
    return {**outline.features, **outline.fit, "rows": outline.rows}


def differing_settings(settings: Sequence[Mapping[Any, str]]) -> list[str]:
    """For each of several runs, return the settings in which it differs from the others."""
    differing = {
        name
        for name in set().union(*settings)
        if len({one[name] for one in settings if name in one}) > 1
    }
    return [join(text for name, text in one.items() if name in differing) for one in settings]


def join(texts: Iterable[str]) -> str:
    """Return the texts that are not empty as a list in a sentence."""
    return ", ".join(filter(None, texts))
