"""Stage two: fit classifiers on stored features, side by side, and answer from earlier runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featstore._signatures import keywords_of, settings_named, settings_of, takes
from featstore.config import SET_FACETS, FitConfig
from featstore.environment import command
from featstore.fitting import plan
from featstore.fitting.fit_task import find_run
from featstore.fitting.results import Fit, raise_failures
from featstore.fitting.solvers.scaling import new_scratch
from featstore.fitting.tasks import find_task
from featstore.io.files import with_resume_hint
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore, open_store


@takes(
    *settings_of(FitConfig, but=("clf", "params", "grid")),
    *settings_named(SET_FACETS),
)
def fit_each(
    store: str | Path | FeatureStore | None = None,
    clf: str | Sequence[str] = "logreg",
    *,
    dataset: str | None = None,
    model: str | Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    params: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    repeats: int = 1,
    n_jobs: int | None = None,
    scheduler: str | None = None,
    memory_nbytes: int | None = None,
    refit: bool = False,
    force: bool = False,
    progress: Progress = IN_NOTEBOOKS,
    **options: Any,
) -> list[Fit]:
    """Fit and evaluate classifiers on stored features; a fit that fails does not stop the others.

    Runs of earlier fits with nothing changed are the answer to the same fits. The others run side
    by side in worker processes, which read the features from the store themselves; fits that take
    less time than workers take to start run in this process.

    Parameters
    ----------
    store : str, Path or FeatureStore
        Where the features are, and where the runs are kept.
    clf : str or sequence of str
        Classifiers by name, ``package.module:function``, or ``all``.
    dataset : str, optional
        ``sat4``, ..., or the name of the folder that was extracted.
    model, layers : str or sequence of str, optional
        Each is one selection; commas put several side by side in one selection.
    params : mapping, optional
        Parameters by ``name``, or by ``clf:name`` for one of several classifiers. A
        ``class_weight`` is ``balanced``, or weights by class name.
    grid : mapping, optional
        Values that a search tries, by ``name`` or ``clf:name``, in place of its own.
    repeats : int
        Fits of each, with seeds that count up; each draws a new split, unless the dataset has an
        official one and no ``split_seed`` is given.
    n_jobs : int, optional
        Fits at a time; by default as many as there are cores. With 1, in this process.
    scheduler : str, optional
        Address of a Dask scheduler whose workers do the fits. They must see the store by the same
        path or URL.
    memory_nbytes : int, optional
        Memory that fits may take beside the features; by default what is free.
    refit : bool
        Whether to repeat earlier fits.
    force : bool
        Whether to begin fits that would take hours or too much memory.
    progress : Progress
        Receives a line for each fit as it ends.
    **options
        Settings of :class:`featstore.config.FitConfig` (``seed``, ``search``, ``cv``,
        ``n_candidates``, ``n_epochs``, ``split_seed``, ``drop_leaks``, ``device``, ``intelex``),
        and ``weights``, ``bands``, ``image_size``, ``precision``, ``dtype`` or ``set_id``, which
        tell feature sets apart.

    Raises
    ------
    SelectionError, ConfigError, FitError
        See :func:`featstore.fit`; but a fit that fails is returned.
    """
    store = open_store(store, progress)
    settings, facets = plan.split_options(options)
    plan.check_repeats(repeats)
    selections = plan.select_all(store, dataset, model, layers, facets, progress)
    configs = {
        task: plan.fit_configs(clf, params, grid, settings, find_task(task))
        for task in {selection.task for selection in selections}
    }
    scratch = str(new_scratch(store.cache_dir))
    shared = plan.PlanOptions(facets, scratch, refit, force, memory_nbytes)
    with with_resume_hint(store.path, command()):
        planned = plan.plan_fits(selections, configs, repeats, shared, progress)
        for one in planned:
            if one.is_open and not refit:
                one.run = find_run(store, one.task, progress)
            if not one.is_open:
                progress.say(one.result().line)
        if to_do := [fit for fit in planned if fit.is_open]:
            # scikit-learn takes seconds to import, and answers do without it.
            from featstore.fitting.dispatch import do_fits

            device = settings.get("device", FitConfig.device)
            do_fits(to_do, store, shared, n_jobs, scheduler, device, progress)
    return [fit.result() for fit in planned]


@takes(*keywords_of(fit_each))
def fit(
    store: str | Path | FeatureStore | None = None,
    clf: str | Sequence[str] = "logreg",
    **options: Any,
) -> list[Run]:
    """Fit and evaluate classifiers on stored features.

    Takes the options of :func:`featstore.fitting.fit_each`, which returns failures beside the runs.
    Returns a run for each selection, classifier and repeat, in that order.

    Raises
    ------
    SelectionError
        When a selection fits no feature set, or several.
    ConfigError
        When a setting is out of its range.
    FitError
        When a classifier or parameter is unknown; or, once all others are done, when fits failed.

    Examples
    --------
    >>> import featstore
    >>> (run,) = featstore.fit("feature-store", "logreg", search="grid")  # doctest: +SKIP
    """
    fits = fit_each(store, clf, **options)
    raise_failures(fits)
    return [one.run for one in fits if one.run]
