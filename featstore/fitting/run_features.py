"""The stored features of a run, with the rows that trained and tested it."""

from __future__ import annotations

from featstore.config import FitConfig
from featstore.errors import ConfigError, SelectionError
from featstore.fitting.splits import Split
from featstore.fitting.tasks import Task, find_task
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore
from featstore.store.selection import Selection


def features_of(run: Run, store: FeatureStore) -> tuple[Selection, Split]:
    """Return the features that a run was fitted on, and their split.

    Raises
    ------
    SelectionError
        When the store has them no longer, or has others than the run was fitted on.
    IncompleteError, CorruptionError
        When they are unfinished, or damaged.
    """
    parts = run.selection.features
    selection = store.reopen((part.set_id, part.layer) for part in parts)
    if selection.describe().digest != run.selection.digest:
        raise SelectionError(
            f"The store's features are no longer those that {run.run_id} was fitted on. Fit "
            f"again: {run.record.command}"
        )
    config = FitConfig.from_dict(run.record.fit.to_dict())
    return selection, model_split(find_task(run.task), selection, config)


def refuse_layers(run: Run, layers: str | None) -> None:
    """Refuse a choice of layers for a run, which has its own."""
    if layers is not None:
        raise ConfigError(
            f"{run.run_id} is a run, which has its layers. Leave --layers out, or name a feature "
            "set: featstore store ls"
        )


def model_split(kind: Task, selection: Selection, config: FitConfig) -> Split:
    """Return the rows that train a fit's model, and those that it has not seen.

    Validation rows train it too once a search has chosen parameters by them.
    """
    return kind.split(
        selection,
        config.split_seed,
        drop_leaks=config.drop_leaks,
        val_trains=config.search == "validation",
    )
