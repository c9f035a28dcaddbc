"""Learning curves: how accuracy grows with the number of training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from sklearn.model_selection import train_test_split

from featstore.config import FitConfig
from featstore.environment import command
from featstore.errors import ConfigError, FitError
from featstore.fitting import cost as costs
from featstore.fitting.classifiers import assign_params, find_classifier
from featstore.fitting.evaluate import predict_blocks
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.solvers.scaling import fit_scaler, own_scratch, scratch_folder, standardised
from featstore.fitting.solvers.train import explained, map_kernel, train
from featstore.fitting.splits import n_rows, row_numbers, split_rows
from featstore.io.files import with_resume_hint
from featstore.io.locks import remove_shared
from featstore.parallel.cluster import TaskPool
from featstore.parallel.worker_pool import TaskResult
from featstore.plotting import DASHES, INK, PALETTE, STYLE, literal_text, write_png
from featstore.progress import SILENT, Progress
from featstore.store.feature_store import FeatureStore, open_store
from featstore.text import as_list, model_text


def draw_learning(curves: Sequence[tuple[str, Sequence[Any]]]) -> Figure:
    """Draw test accuracy by number of training rows.

    Parameters
    ----------
    curves : sequence of (str, sequence of Point)
        Each line's name and its :class:`featstore.fitting.learning_curve.Point`.

    Returns
    -------
    matplotlib.figure.Figure
        Lines join the means; bands reach from the lowest to the highest of the repeats.
    """
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(6.2, 3.6), layout="constrained")
        ax = fig.add_subplot()
        for i, (name, points) in enumerate(curves):
            n_train = [point.n_train for point in points]
            percent = [100 * np.asarray(point.accuracies) for point in points]
            color = PALETTE[i % len(PALETTE)]
            ax.fill_between(
                n_train,
                [values.min() for values in percent],
                [values.max() for values in percent],
                color=color,
                alpha=0.18,
                linewidth=0,
            )
            ax.plot(
                n_train,
                [values.mean() for values in percent],
                color=color,
                linestyle=DASHES[i // len(PALETTE) % len(DASHES)],
                marker="o",
                markersize=3.5,
                linewidth=1.6,
                label=literal_text(name),
            )
        ax.set_xscale("log")
        ticks = sorted({point.n_train for _, points in curves for point in points})
        ax.set_xticks(ticks[:: max(1, len(ticks) // 8)])
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("training rows (logarithmic)")
        ax.set_ylabel("test accuracy (%)")
        ax.set_ylim(top=min(100, ax.get_ylim()[1]))
        ax.grid(alpha=0.18, color=INK)
        fig.legend(loc="outside lower center", ncols=min(2, len(curves)))
    return fig


N_SIZES = 8
"""Sizes of the training set that are tried unless others are asked for."""


@dataclass(frozen=True)
class Point:
    """Accuracy at one number of training rows.

    Parameters
    ----------
    n_train : int
        Training rows.
    accuracies : tuple of float
        Test accuracies (fractions), one for each random choice of the rows.
    train_accuracies : tuple of float
        Accuracies on the training rows themselves.
    """

    n_train: int
    accuracies: tuple[float, ...]
    train_accuracies: tuple[float, ...]


@dataclass(frozen=True)
class LearningCurve:
    """How one classifier's accuracy grows with training rows.

    Parameters
    ----------
    title, model, clf : str
        Dataset, network and classifier.
    layers : tuple of str
    n_test : int
        Rows that are judged, always the same.
    params : dict
        The classifier's.
    points : tuple of Point
        By number of rows, increasing.
    """

    title: str
    model: str
    layers: tuple[str, ...]
    clf: str
    n_test: int
    params: dict[str, Any]
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        """What it is of, for people."""
        return f"{self.model} {'+'.join(self.layers)} · {self.clf}"

    def to_dict(self) -> dict[str, Any]:
        """Return the curve as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class _Task:
    """One training on some of the rows, by names only."""

    store: str
    parts: tuple[tuple[str, str], ...]
    config: FitConfig
    n_train: int
    scratch: str


def learning_curve(
    store: str | Path | FeatureStore = "feature-store",
    clf: str = "logreg",
    *,
    dataset: str | None = None,
    model: str | Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    params: Mapping[str, Any] | None = None,
    sizes: Sequence[int] = (),
    repeats: int = 3,
    n_jobs: int | None = None,
    scheduler: str | None = None,
    memory_nbytes: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> list[LearningCurve]:
    """Train on growing parts of the training rows, and judge each on all test rows.

    The parts hold each class's share, and are drawn anew for each repeat; parameters stay as they
    are given, for to choose them by these accuracies would be to choose by the test rows.

    Parameters
    ----------
    store : str, Path or FeatureStore
    clf : str
        One classifier.
    dataset, model, layers, params
        As of :func:`featstore.fitting.fit.fit_each`; a curve for each selection.
    sizes : sequence of int, optional
        Numbers of training rows; by default eight up to all of them.
    repeats : int
        Random choices of rows of each size; all of them are taken once.
    n_jobs, scheduler, memory_nbytes, force, progress
        As of :func:`featstore.fitting.fit.fit_each`.
    **options
        ``seed``, ``split_seed``, ``n_epochs`` and ``drop_leaks``, and what tells feature sets
        apart.

    Raises
    ------
    ConfigError
        When sizes or repeats are out of range.
    FitError
        When a training fails.
    """
    store = open_store(store, progress)
    settings = {
        k: options.pop(k) for k in ("seed", "split_seed", "n_epochs", "drop_leaks") if k in options
    }
    facets = {key: value for key, value in options.items() if value is not None}
    if not isinstance(repeats, int) or repeats < 1:
        raise ConfigError(f"repeats is {repeats!r}; it must be a whole number from 1.")
    own = assign_params(params or {}, [clf])[clf]
    config = FitConfig(clf, tuple(own.items()), **settings)
    selections = [
        store.select(dataset, one_model, one_layers, **facets)
        for one_model in as_list(model)
        for one_layers in as_list(layers)
    ]
    with (
        with_resume_hint(store.path, command()),
        scratch_folder(store.cache_dir / "scratch") as scratch,
    ):
        tasks: list[tuple[int, _Task]] = []
        nbytes: list[int] = []
        duration_s = 0.0
        for index, selection in enumerate(selections):
            split = split_rows(selection, config.split_seed, drop_leaks=config.drop_leaks)
            n_train, n_classes = n_rows(split.train), len(selection.class_names)
            shape = costs.Shape(n_train, n_rows(split.test), selection.n_features, n_classes)
            chosen = find_classifier(clf).params(own, n_train)
            cost = costs.estimate(config, chosen, shape)
            if notice := costs.check(config, cost, shape, memory_nbytes, force=force):
                progress.say(notice)
            place = store.place
            for size in _sizes(sizes, selection.y[split.train]):
                own_cost = costs.estimate(config, chosen, replace(shape, n_train=size))
                duration_s += own_cost.duration_s * (repeats if size < n_train else 1)
                for repeat in range(repeats if size < n_train else 1):
                    drawn = FitConfig(
                        clf, config.params, **settings | {"seed": config.seed + repeat}
                    )
                    task = _Task(place, selection.parts, drawn, size, str(scratch))
                    tasks.append((index, task))
                    nbytes.append(own_cost.nbytes)
        n_at_a_time = costs.fits_at_a_time(
            nbytes, n_jobs, scheduler, memory_nbytes, force=force, progress=progress
        )
        leave = partial(remove_shared, scratch.name)
        progress.start("Training", len(tasks), "fits")
        try:
            with TaskPool(n_at_a_time, scheduler, {}, progress, leave) as pool:
                outcomes = pool.run(
                    _train_on,
                    [(task,) for _, task in tasks],
                    lambda position, outcome: progress.advance(1),
                    is_quick=duration_s < costs.QUICK_S,
                )
        finally:
            progress.stop()
    curves = []
    for index, selection in enumerate(selections):
        found = [
            (task.n_train, outcome)
            for (owner, task), outcome in zip(tasks, outcomes, strict=True)
            if owner == index
        ]
        split = split_rows(selection, config.split_seed, drop_leaks=config.drop_leaks)
        curves.append(
            LearningCurve(
                selection.title,
                model_text(selection.model, selection.describe()["weights"]),
                selection.layers,
                clf,
                n_rows(split.test),
                find_classifier(clf).params(own),
                _points(found),
            )
        )
    return curves


def _sizes(asked: Sequence[int], y: np.ndarray) -> list[int]:
    """Return the sizes to train on, of which each class has a share, and what is left out too."""
    counts = np.bincount(y)
    n_train, n_classes, least = len(y), int((counts > 0).sum()), int(counts[counts > 0].min())
    most = n_train - n_classes if least > 1 else 0
    if asked:
        if wrong := [n for n in asked if n != n_train and not n_classes < n <= most]:
            fewer = f"from {n_classes + 1:,} to {most:,}, or " if most > n_classes else "only "
            raise ConfigError(
                f"A size is {wrong[0]:,}; with {n_train:,} training rows it may be {fewer}"
                f"{n_train:,}, for each of the {n_classes} classes needs rows to train on and rows "
                f"that are left out (the smallest has {least:,})."
            )
        return sorted(set(asked))
    lowest = min(n_train, max(2 * n_classes, n_train // 64))
    sizes = set(np.geomspace(lowest, n_train, N_SIZES).round().astype(int).tolist())
    return sorted(n for n in sizes if n == n_train or n <= most)


def _points(found: Sequence[tuple[int, TaskResult]]) -> tuple[Point, ...]:
    points = []
    for n_train in sorted({n for n, _ in found}):
        own = [outcome for n, outcome in found if n == n_train]
        for outcome in own:
            if outcome.error:
                raise outcome.error
        test, train_ = zip(*(outcome.value for outcome in own), strict=True)
        points.append(Point(n_train, test, train_))
    return tuple(points)


def _train_on(task: _Task) -> tuple[float, float]:
    """Return test and training accuracy of one training; workers call this."""
    selection = open_store(task.store).reopen(task.parts)
    config = task.config
    split = split_rows(selection, config.split_seed, drop_leaks=config.drop_leaks)
    X, y = selection.memmap(), selection.y
    rows = row_numbers(split.train)
    if task.n_train < len(rows):
        try:
            rows, _ = train_test_split(
                rows, train_size=task.n_train, stratify=y[rows], random_state=config.seed
            )
        except ValueError as error:
            raise FitError(f"{task.n_train:,} training rows can't be drawn: {error}") from error
        rows.sort()
    samples, n_train = Samples(X, rows), len(rows)
    classifier = find_classifier(config.clf)
    model = classifier.pipeline(classifier.params(dict(config.params), n_train), config.seed)
    with explained(config.clf, n_train, selection.n_features):
        if "scale" in model.named_steps:
            model.steps[0] = ("scale", fit_scaler(samples))
            name = selection.describe()["digest"]
            prepared = standardised(
                samples, n_train, name, own_scratch(task.scratch, selection.store)
            )
        else:
            prepared = samples.take(slice(0, n_train))
        if "map" in model.named_steps:
            whole = Samples(prepared, slice(0, n_train))
            prepared = map_kernel(model.named_steps["map"], whole, n_train)
        train(model, prepared, y[rows], config, records=False)
        test = predict_blocks(model, Samples(X, split.test)).labels == y[split.test]
        own = predict_blocks(model, samples).labels == y[rows]
    return float(test.mean()), float(own.mean())


def write_figure(curves: Sequence[LearningCurve], path: str | Path) -> None:
    """Write the curves as one PNG figure; it is replaced whole, or not at all.

    Raises
    ------
    StoreError
        When it can't be written.
    """
    write_png(draw_learning([(curve.name, curve.points) for curve in curves]), path)
