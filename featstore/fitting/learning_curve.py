"""Learning curves: how the score grows with the number of training rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from featstore._signatures import settings_named, settings_of, takes
from featstore.config import SET_FACETS, TASKS, FitConfig
from featstore.environment import command
from featstore.errors import ConfigError
from featstore.fitting import cost
from featstore.fitting.curve_sizes import check_shots, choose_sizes, draw_shots
from featstore.fitting.plan import check_repeats, fit_configs, select_all, split_options
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.solvers.scaling import (
    new_scratch,
    own_scratch,
    scale_rows,
    scratch_folder,
)
from featstore.fitting.solvers.train import explained, train
from featstore.fitting.splits import n_rows, refuse_trained, row_numbers
from featstore.fitting.tasks import find_task
from featstore.io.files import with_resume_hint
from featstore.io.locks import remove_shared
from featstore.parallel.task_pool import TaskPool
from featstore.parallel.worker_pool import TaskResult
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.selection import Selection

SETTINGS = ("seed", "split_seed", "n_epochs", "drop_leaks")
"""Settings of :class:`.FitConfig` that a learning curve takes."""


@dataclass(frozen=True)
class Point:
    """Score at one number of training rows: accuracy, mAP or R², as the images' labels have it.

    Parameters
    ----------
    n_train : int
        Training rows.
    scores : tuple of float
        Test scores, one for each random choice of the rows.
    train_scores : tuple of float
        Scores of the training rows themselves.
    n_shots : int or None
        Training rows of each class, where a number of these was asked for.
    """

    n_train: int
    scores: tuple[float, ...]
    train_scores: tuple[float, ...]
    n_shots: int | None = None

    @property
    def mean(self) -> float:
        """Mean test score."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the test score; None for one choice of the rows."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def train_mean(self) -> float:
        """Mean score of the training rows."""
        return statistics.fmean(self.train_scores)


@dataclass(frozen=True)
class LearningCurve:
    """How one classifier's score grows with training rows.

    Parameters
    ----------
    title, model, clf : str
        Dataset, network and classifier.
    layers : tuple of str
    n_test : int
        Test rows, the same for all points.
    params : dict
        The classifier's, with the largest number of training rows: some defaults depend on it.
    points : tuple of Point
        By number of rows, increasing.
    task : str
        What a label is, one of :data:`featstore.config.TASKS`.
    split : str
        How the rows are divided, such as ``random split``.
    """

    title: str
    model: str
    layers: tuple[str, ...]
    clf: str
    n_test: int
    params: dict[str, Any]
    points: tuple[Point, ...]
    task: str = TASKS[0]
    split: str = ""

    @property
    def name(self) -> str:
        """Network, layers and classifier, for people."""
        return f"{self.model} {'+'.join(self.layers)} · {self.clf}"

    def to_dict(self) -> dict[str, Any]:
        """Return the curve as JSON-able values."""
        return asdict(self)


KNOWN_ROWS = (
    "a fit on some of them would profit from all, and the curve would be too high. Draw it of "
    "features that were not trained on them."
)


@dataclass(frozen=True)
class _Task:
    """One training on some of the rows: a task for a worker, which holds names only."""

    store: str
    parts: tuple[tuple[str, str], ...]
    kind: str
    config: FitConfig
    n_train: int
    scratch: str
    n_shots: int | None = None


@dataclass(frozen=True)
class _PlannedCurve:
    """The tasks of one curve, and what each of them costs."""

    selection: Selection
    n_test: int
    tasks: list[_Task]
    costs: list[cost.Cost]


@takes(*settings_of(FitConfig, only=SETTINGS), *settings_named(SET_FACETS))
def learning_curve(
    store: str | Path | FeatureStore | None = None,
    clf: str = "logreg",
    *,
    dataset: str | None = None,
    model: str | Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    params: Mapping[str, Any] | None = None,
    sizes: Sequence[int] = (),
    shots: Sequence[int] = (),
    repeats: int = 3,
    n_jobs: int | None = None,
    scheduler: str | None = None,
    memory_nbytes: int | None = None,
    force: bool = False,
    progress: Progress = IN_NOTEBOOKS,
    **options: Any,
) -> list[LearningCurve]:
    """Train on growing parts of the training rows, and test each on all test rows.

    The parts have each class's share where images have one class each, and each repeat draws new
    ones; of groups, whole ones are drawn. Parameters stay as they are given: these scores must not
    choose them, for that would choose by the test rows.

    Parameters
    ----------
    store : str, Path or FeatureStore
    clf : str
        One classifier.
    dataset, model, layers, params
        As of :func:`featstore.fitting.fit_each`; a curve for each selection.
    sizes : sequence of int, optional
        Numbers of training rows; by default eight up to all of them.
    shots : sequence of int, optional
        Numbers of training rows of each class, in place of `sizes`. In one repeat, more rows
        include the fewer. Groups are not kept whole.
    repeats : int
        Random choices of rows of each size; all rows are taken once.
    n_jobs, scheduler, memory_nbytes, force, progress
        As of :func:`featstore.fitting.fit_each`.
    **options
        ``seed``, ``split_seed``, ``n_epochs`` and ``drop_leaks``, and what tells feature sets
        apart.

    Raises
    ------
    ConfigError
        When sizes, shots or repeats are out of range.
    FitError
        When a training fails.
    """
    store = open_store(store, progress)
    settings, facets = split_options(options)
    check_repeats(repeats)
    if sizes and shots:
        raise ConfigError("Give sizes or shots, the training rows in all or those of each class.")
    selections = select_all(store, dataset, model, layers, facets, progress)
    configs = [
        fit_configs(clf, params, None, settings, find_task(selection.task))[0]
        for selection in selections
    ]
    scratch = new_scratch(store.cache_dir)
    with with_resume_hint(store.path, command()), scratch_folder(scratch):
        curves = []
        for selection, config in zip(selections, configs, strict=True):
            curve, notice = _plan(
                selection, config, sizes, shots, repeats, str(scratch), memory_nbytes, force=force
            )
            curves.append(curve)
            if notice:
                progress.say(notice)
        costs = [one for curve in curves for one in curve.costs]
        nbytes = [one.nbytes for one in costs]
        n_at_a_time = cost.fits_at_a_time(
            nbytes, n_jobs, scheduler, memory_nbytes, force=force, progress=progress
        )
        is_quick = sum(one.duration_s for one in costs) < cost.QUICK_S
        tasks = [(task,) for curve in curves for task in curve.tasks]
        leave = partial(remove_shared, scratch.name)
        progress.start("Training", len(tasks), "fits")
        try:
            with TaskPool(n_at_a_time, scheduler, {}, progress, leave) as pool:
                results = iter(
                    pool.run(
                        _train_task, tasks, lambda i, r: progress.advance(1), is_quick=is_quick
                    )
                )
        finally:
            progress.stop()
    return [
        _curve(curve, config, [next(results) for _ in curve.tasks])
        for curve, config in zip(curves, configs, strict=True)
    ]


def _plan(
    selection: Selection,
    config: FitConfig,
    sizes: Sequence[int],
    shots: Sequence[int],
    repeats: int,
    scratch: str,
    budget: int | None,
    *,
    force: bool,
) -> tuple[_PlannedCurve, str]:
    """Return the tasks of one curve with their costs, and what is worth saying beforehand."""
    kind = find_task(selection.task)
    split = kind.split(selection, config.split_seed, drop_leaks=config.drop_leaks)
    refuse_trained(selection, row_numbers(split.train), KNOWN_ROWS)
    n_train, n_test = n_rows(split.train), n_rows(split.test)
    shape = cost.Shape(n_train, n_test, selection.n_features, kind.n_outputs(selection))
    classifier = kind.classifier_of(config)
    params = classifier.params(dict(config.params), n_train, selection.n_features)
    kind.with_class_weights(params, selection)
    whole = cost.estimate(classifier, config, params, shape)
    notice = cost.check(classifier, whole, shape, budget, force=force)
    curve = _PlannedCurve(selection, n_test, [], [])
    y = kind.y(selection)[split.train]
    wanted: list[tuple[int, int | None]]
    if shots:
        n_classes = check_shots(shots, selection, y)
        wanted = [(k * n_classes, k) for k in sorted(set(shots))]
    else:
        wanted = [(size, None) for size in choose_sizes(sizes, kind, y)]
    for size, n_shots in wanted:
        own_cost = cost.estimate(classifier, config, params, replace(shape, n_train=size))
        for repeat in range(repeats if size < n_train else 1):
            own = replace(config, seed=config.seed + repeat)
            place = selection.backend.locate()
            curve.tasks.append(
                _Task(place, selection.parts, kind.name, own, size, scratch, n_shots)
            )
            curve.costs.append(own_cost)
    return curve, notice


def _curve(
    planned: _PlannedCurve, config: FitConfig, results: Sequence[TaskResult]
) -> LearningCurve:
    for result in results:
        if result.error:
            raise result.error
    scores: dict[tuple[int, int | None], list[tuple[float, float]]] = {}
    for task, result in zip(planned.tasks, results, strict=True):
        scores.setdefault((task.n_train, task.n_shots), []).append(result.value)
    selection, n_train = planned.selection, max(n_train for n_train, _ in scores)
    classifier = find_task(selection.task).classifier_of(config)
    return LearningCurve(
        selection.title,
        selection.model,
        selection.layers,
        config.clf,
        planned.n_test,
        classifier.params(dict(config.params), n_train, selection.n_features),
        tuple(
            Point(n, tuple(test for test, _ in own), tuple(train for _, train in own), n_shots)
            for (n, n_shots), own in scores.items()
        ),
        selection.task,
        selection.split_text(is_drawn=config.split_seed is not None),
    )


def _train_task(task: _Task) -> tuple[float, float]:
    """Return test and training score of one training; workers call this."""
    store, config, kind = open_store(task.store), task.config, find_task(task.kind)
    selection = store.reopen(task.parts)
    split = kind.split(selection, config.split_seed, drop_leaks=config.drop_leaks)
    X, y = selection.memmap(), kind.y(selection)
    rows = row_numbers(split.train)
    if task.n_shots is not None:
        rows = rows[draw_shots(y[rows], task.n_shots, config.seed)]
    elif task.n_train < len(rows):
        rows = kind.draw_part(selection, rows, task.n_train, config.seed, whole_groups=True)
    classifier = kind.classifier_of(config)
    params = classifier.params(dict(config.params), len(rows), selection.n_features)
    model = classifier.pipeline(kind.with_class_weights(params, selection), config.seed)
    samples = Samples(X, rows)
    with explained(config.clf, len(rows), selection.n_features):
        digest, scratch = selection.describe().digest, own_scratch(task.scratch, store.cache_dir)
        X_train = scale_rows(model, samples, digest, scratch)
        train(model, X_train, y[rows], config, records=False)
        test = kind.score(y[split.test], kind.predict(model, Samples(X, split.test)))
        own = kind.score(y[rows], kind.predict(model, samples))
    return test, own
