"""What a shell completes: names of models, datasets, classifiers, layers, runs, sets, and paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from featstore.config import FIT_NAMES, METRICS
from featstore.environment import default_store
from featstore.text import printable

if TYPE_CHECKING:
    import click

    from featstore.store.feature_set import FeatureSet
    from featstore.store.feature_store import FeatureStore

Completer = Callable[["click.Context", "click.Parameter", str], list[CompletionItem]]


def _completer(names: Callable[[click.Context], Iterable[str]]) -> Completer:
    """Return a completer of names, several of them joined by commas."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, comma, word = incomplete.rpartition(",")
        found: list[str] = []
        # A store that can't be read completes nothing.
        with suppress(Exception):
            found = [
                name
                for name in dict.fromkeys(names(ctx))
                if name.startswith(word) and name == printable(name)
            ]
        return [CompletionItem(f"{before}{comma}{name}") for name in found]

    return complete


def _model_names(ctx: click.Context) -> list[str]:
    from featstore.models.names import MODEL_NAMES, SOURCES, TRIPLET

    return [*MODEL_NAMES, *(f"{source}:" for source in (*SOURCES, TRIPLET))]


def _store(ctx: click.Context) -> FeatureStore | None:
    from featstore.store.feature_store import open_store

    address = ctx.params.get("store") or default_store()
    # A service takes longer to answer than anybody waits for the Tab key.
    return None if "://" in address else open_store(address)


def _sets(ctx: click.Context) -> list[FeatureSet]:
    store = _store(ctx)
    return store.readable_sets() if store else []


def _set_names(ctx: click.Context) -> list[str]:
    return [s.set_id for s in _sets(ctx)]


def _titles(ctx: click.Context) -> list[str]:
    return [s.outline.facets.title for s in _sets(ctx)]


def _stored_models(ctx: click.Context) -> list[str]:
    return [s.outline.facets.model for s in _sets(ctx)]


def _stored_layers(ctx: click.Context) -> list[str]:
    return [layer for s in _sets(ctx) for layer in s.outline.layers]


def _run_names(ctx: click.Context) -> list[str]:
    from featstore.runs.find import known_names

    store = _store(ctx)
    return known_names(store) if store else []


def _dataset_names(ctx: click.Context) -> list[str]:
    from featstore.datasets.registry import dataset_names

    return dataset_names()


def _network_layers(ctx: click.Context) -> list[str]:
    from featstore.models.layer_names import other_names, paper_layers

    model = str(ctx.params.get("model") or "")
    # torchvision's names need the network itself, and so torch.
    return [*paper_layers(model), *other_names(model)]


models = _completer(_model_names)
classifiers = _completer(lambda ctx: ("all", *FIT_NAMES))
datasets = _completer(_dataset_names)
network_layers = _completer(_network_layers)
stored_models = _completer(_stored_models)
stored_layers = _completer(_stored_layers)
titles = _completer(_titles)
set_names = _completer(_set_names)
run_names = _completer(_run_names)


metrics = _completer(lambda ctx: (*METRICS, *_run_names(ctx)))


def runs_or_sets(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete runs and feature sets."""
    return run_names(ctx, param, incomplete) + set_names(ctx, param, incomplete)


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete files and folders."""
    return [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete folders."""
    return [CompletionItem(incomplete, type="dir")]


def weights(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of weights, or files."""
    found = [CompletionItem(n) for n in ("imagenet", "random:0") if n.startswith(incomplete)]
    is_path = "/" in incomplete or not found or bool(incomplete and Path(incomplete).exists())
    return files(ctx, param, incomplete) if is_path else found
