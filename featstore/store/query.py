"""Find the one selection that dataset, model and layers mean."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featstore.errors import FeatstoreError, IncompleteError, SelectionError
from featstore.store.selection import Selection
from featstore.text import is_random, matches

if TYPE_CHECKING:
    from featstore.store.feature_set import FeatureSet
    from featstore.store.feature_store import FeatureStore

OPTIONS = {
    "title": "--dataset",
    "dataset": "--dataset",
    "model": "--model",
    "weights": "--weights",
    "bands": "--bands",
    "image_size": "--image-size",
    "precision": "--precision",
    "dtype": "--dtype",
}
"""Which option of ``featstore fit`` tells sets apart that differ in a facet."""


def select(
    store: FeatureStore,
    dataset: str | None,
    model: str | None,
    layers: str | None,
    facets: Mapping[str, Any],
) -> Selection:
    """Find the one selection that fits; see :meth:`.FeatureStore.select`."""
    sets = [s for s in store.readable_sets() if _fits(s, {"dataset": dataset, **facets})]
    if not store.sets():
        raise SelectionError(
            f"{store.address} holds no feature sets. Make one first, for example with: "
            "featstore extract --model resnet50 --dataset sat4"
        )
    filters = " ".join(
        f"--{'set' if name == 'set_id' else name.replace('_', '-')} {value}"
        for name, value in {"dataset": dataset, **facets}.items()
        if value is not None
    )
    models: list[str | None] = [*_words(model)] if model else [None]
    names: list[str | None] = [*_words(layers)] if layers else [None]
    parts: list[tuple[str, str]] = []
    used: set[str] = set()
    chosen: list[FeatureSet] = []
    for one_model in models:
        own = [_own_name(name, one_model, models) for name in names]
        wanted = [name for name in own if name != ""]
        one_set = _one_set(
            store,
            [s for s in sets if _fits(s, {"model": one_model})],
            wanted,
            one_model,
            shared=len(models) > 1,
            filters=filters,
        )
        chosen.append(one_set)
        for name in wanted:
            layer = _one_layer(one_set, name)
            if layer is None:
                continue
            used.add(str(name))
            parts.append((one_set.set_id, layer))
    if missing := [n for n in names if n is not None and n.split(":")[-1] not in used]:
        raise SelectionError(
            f"No selected feature set has a layer {', '.join(missing)}. Extract it with: "
            f"featstore extract --layers {','.join(missing)} (other options as before)"
        )
    if len({s.info["dataset"]["fingerprint"] for s in chosen}) > 1:
        raise SelectionError(
            "The features of " + " and ".join(s.set_id for s in chosen) + " come from different "
            "images, so their rows can't stand side by side. Extract both from the same dataset, "
            "--limit and --seed."
        )
    return Selection(store, tuple(dict.fromkeys(parts)))


def selecting_options(store: FeatureStore, set_id: str, layers: Sequence[str]) -> list[str]:
    """Return the fewest options with which ``featstore fit`` selects layers of one set.

    Parameters
    ----------
    store : FeatureStore
    set_id : str
        The set.
    layers : sequence of str
        Complete layers of it, which the options put side by side.
    """
    feature_set = store.get(set_id)
    facets = feature_set.facets
    wanted = ",".join(layers) if len(feature_set.layers()) > 1 else None
    options = [] if wanted is None else ["--layers", wanted]
    parts = tuple((feature_set.set_id, layer) for layer in layers)
    ways: list[dict[str, Any]] = [
        {},
        {"dataset": facets["title"]},
        {"model": facets["model"]},
        {"dataset": facets["title"], "model": facets["model"]},
    ]
    for way in ways:
        try:
            if store.select(layers=wanted, **way).parts == parts:
                return [word for k, v in way.items() for word in (f"--{k}", v)] + options
        except FeatstoreError:
            continue
    return ["--set", set_id, *options]


def _own_name(name: str | None, model: str | None, models: list[str | None]) -> str | None:
    """Return the layer that `name` asks of `model`; empty when it asks another model."""
    if name is None or ":" not in name:
        return name
    owner, _, layer = name.partition(":")
    if models == [None]:
        raise SelectionError(f"The layer {name!r} names the model {owner}: give --model {owner}.")
    return layer if owner == model else ""


def _fits(feature_set: FeatureSet, wanted: Mapping[str, Any]) -> bool:
    facets = feature_set.facets
    for name, value in wanted.items():
        if value is None:
            continue
        if name == "set_id":
            fits = matches(feature_set.set_id, value)
        elif name == "dataset":
            # Titles are composed; what a file system hands to a shell may not be.
            fits = unicodedata.normalize("NFC", value) in (facets["dataset"], facets["title"])
        elif name == "weights":
            fits = value in facets["weights_names"]
        else:
            fits = str(facets.get(name)) == str(value)
        if not fits:
            return False
    return True


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _one_set(
    store: FeatureStore,
    sets: list[FeatureSet],
    layers: list[str | None],
    model: str | None,
    *,
    shared: bool,
    filters: str,
) -> FeatureSet:
    def has(s: FeatureSet, layer: str | None) -> bool:
        return bool(s.layers()) if layer is None else s.find_layer(layer) is not None

    match = any if shared else all
    found = [s for s in sets if layers and match(has(s, layer) for layer in layers)]
    # Baselines stand beside other features, and are meant only when they are asked for.
    found = [s for s in found if not _is_baseline(s)] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise SelectionError(_several(found))
    for s in sets:
        for name in s.unfinished():
            if name in layers or None in layers:
                raise IncompleteError(s.why_unfinished(name))
    wanted = " ".join(f"--layers {layer}" for layer in layers if layer)
    named = f"--model {model}" if model else ""
    asked = " ".join(filter(None, [filters, named, wanted]))
    raise SelectionError(
        f"No feature set fits {asked or 'the selection'}. {store.address} holds:\n"
        + _listing(store.sets())
    )


def _is_baseline(feature_set: FeatureSet) -> bool:
    facets = feature_set.facets
    return facets["model"] == "pixelstats" or is_random(facets["weights"])


def _listing(sets: list[FeatureSet]) -> str:
    lines = []
    for s in sets:
        try:
            facets = s.facets
            described = (
                f"{facets['title']} {facets['model']} {facets['weights']} "
                f"{','.join(s.layers()) or '(unfinished)'}"
            )
        except FeatstoreError as error:
            described = str(error)
        lines.append(f"  {s.set_id}: {described}")
    return "\n".join(lines)


def _several(found: list[FeatureSet]) -> str:
    differing = [
        (name, option)
        for name, option in OPTIONS.items()
        if len({str(s.facets.get(name)) for s in found}) > 1
    ]
    options = list(dict.fromkeys(option for _, option in differing)) or ["--set"]
    lines = []
    for s in found:
        values = [f"{option} {s.facets[name]}" for name, option in differing if name != "dataset"]
        # Where no option differs, the images do.
        images = f"{s.n_samples:,} images of {s.info['dataset'].get('root') or s.facets['title']}"
        lines.append(f"  {s.set_id}: {' '.join(values) or images}")
    if options != ["--set"]:
        options.append("--set")
    return f"{len(found)} feature sets fit. Choose one with {' or '.join(options)}:\n" + "\n".join(
        lines
    )


def _one_layer(feature_set: FeatureSet, name: str | None) -> str | None:
    if name is not None:
        return feature_set.find_layer(name)
    complete = list(feature_set.layers())
    if len(complete) == 1:
        return complete[0]
    raise SelectionError(
        f"{feature_set.set_id} has the layers {', '.join(complete)}. Choose with --layers; "
        f"with a comma they are put side by side: --layers {','.join(complete[:2])}"
    )
