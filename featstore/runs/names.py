"""Names of runs, and of the images that they are on: the same in every table and figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featstore.errors import RunError
from featstore.runs.outline import Outline
from featstore.runs.run import Run
from featstore.text import did_you_mean, run_text


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


def runs_on(runs: Sequence[Run], dataset: str) -> list[Run]:
    """Return the runs on a dataset or folder; refuse a name that has none."""
    groups = group_by_images(runs)
    if dataset in groups:
        return groups[dataset]
    own = [run for run in runs if dataset in (run.title, run.outline.summary["dataset"])]
    if not own:
        titles = sorted({run.title for run in runs})
        found = f"There are runs on {', '.join(titles)}." if titles else "There are none."
        raise RunError(f"No runs are on {dataset!r}.{did_you_mean(dataset, titles)} {found}")
    return own


def group_by_images(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs by the images that they are on, under a unique title for each.

    Folders of one name may hold different images; digits in their titles tell them apart. Images
    of one title may have labels of several tasks, which their titles say. Runs of a protocol are
    a group of their own, for scores of two protocols have no common order.
    """
    groups: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        protocol = run.outline.summary["protocol"] or ""
        images = run.title, run.outline.fingerprint, run.task, protocol
        groups.setdefault(images, []).append(run)
    kinds = {images[:3] for images in groups}
    n_of_title = Counter(title for title, _, _ in kinds)
    n_of_task = Counter((title, task) for title, _, task in kinds)
    found = {}
    for (title, fingerprint, task, protocol), own in groups.items():
        told = []
        if n_of_task[title, task] > 1:
            told.append(f"images {fingerprint[:6]}")
        if n_of_title[title] > n_of_task[title, task]:
            told.append(task)
        if protocol:
            told.append(f"protocol {protocol}")
        found[f"{title} ({', '.join(told)})" if told else title] = own
    return found
