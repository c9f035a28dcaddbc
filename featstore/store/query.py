"""Find the one selection that fits a dataset, a model and layers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featstore.errors import (
    FeatstoreError,
    FormatError,
    IncompleteError,
    SelectionError,
    StoreError,
)
from featstore.store.differences import differing_settings
from featstore.store.feature_set import FeatureSet
from featstore.store.selection import Selection
from featstore.text import MAX_LISTED, did_you_mean, is_random, matches

NEWEST = "newest"
"""A word in place of a set's name: the newest of the sets that fit."""

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
"""The option of ``featstore fit`` that selects by a facet."""


def read_error(feature_set: FeatureSet) -> StoreError | None:
    """Return the error of reading a set's records, or None."""
    try:
        _ = feature_set.outline
    except StoreError as error:
        return error
    return None


def select(
    sets: Sequence[FeatureSet],
    address: str,
    dataset: str | None,
    model: str | None,
    layers: str | None,
    facets: Mapping[str, Any],
) -> Selection:
    """Find the one selection that fits among the sets of the store at an address.

    See :meth:`.FeatureStore.select`.
    """
    all_models, all_layers = [model] if model else [], [layers] if layers else []
    check_names(sets, address, dataset, all_models, all_layers, facets.get("set_id"))
    errors = [read_error(s) for s in sets]
    readable = [s for s, error in zip(sets, errors, strict=True) if error is None]
    if not readable and isinstance(errors[0], FormatError):
        raise errors[0]
    fitting = [s for s in readable if _fits(s, {"dataset": dataset, **facets})]
    filters = " ".join(
        f"--{'set' if name == 'set_id' else name.replace('_', '-')} {value}"
        for name, value in {"dataset": dataset, **facets}.items()
        if value is not None
    )
    models: list[str | None] = [*_words(model)] if model else [None]
    names: list[str | None] = [*_words(layers)] if layers else [None]
    sources: list[tuple[FeatureSet, str]] = []
    used: set[str] = set()
    chosen: list[FeatureSet] = []
    for one_model in models:
        own = [_own_name(name, one_model, models) for name in names]
        wanted = [name for name in own if name != ""]
        own_sets = [s for s in fitting if _fits(s, {"model": one_model})]
        is_newest = facets.get("set_id") == NEWEST
        one_set = _one_set(own_sets, wanted, shared=len(models) > 1, is_newest=is_newest)
        if one_set is None:
            raise SelectionError(
                f"No feature set fits {_asked(filters, one_model, wanted)}. {address} holds:\n"
                + _listing(sets)
            )
        chosen.append(one_set)
        for name in wanted:
            layer = _one_layer(one_set, name)
            if layer is None:
                continue
            used.add(str(name))
            sources.append((one_set, layer))
    if missing := [n for n in names if n is not None and n.split(":")[-1] not in used]:
        raise SelectionError(
            f"No selected feature set has a layer {', '.join(missing)}. Extract it with: "
            f"featstore extract --layers {','.join(missing)} (other options as before)"
        )
    if len({s.outline.fingerprint for s in chosen}) > 1:
        raise SelectionError(
            "The features of " + " and ".join(s.set_id for s in chosen) + " come from different "
            "images, so their rows can't be put side by side. Extract both from the same dataset, "
            "with the same --limit and --seed."
        )
    return Selection(tuple(dict.fromkeys(sources)))


def check_names(
    sets: Sequence[FeatureSet],
    address: str,
    dataset: str | None,
    models: Iterable[str],
    layers: Iterable[str],
    set_id: str | None,
) -> None:
    """Refuse a name that no set has, and say which names are like it."""
    if not sets:
        raise SelectionError(
            f"{address} holds no feature sets. Make one first, for example with: "
            "featstore extract --model resnet50 --dataset sat4"
        )
    readable = [s for s in sets if read_error(s) is None]
    if not readable:
        return
    facets = [s.outline.facets for s in readable]
    titles = [name for one in facets for name in (one.title, one.dataset)]
    of_layers = _layer_names(readable) if layers else []
    set_ids = [s.set_id for s in sets]
    wanted = [
        ("--dataset", titles, [unicodedata.normalize("NFC", dataset)] if dataset else []),
        ("--model", [one.model for one in facets], [w for text in models for w in _words(text)]),
        ("--layers", of_layers, [w.split(":")[-1] for text in layers for w in _words(text)]),
        ("--set", set_ids, [set_id] if set_id and set_id != NEWEST else []),
    ]
    for option, known, names in wanted:
        for name in names:
            if name in known or (option == "--set" and any(matches(one, name) for one in known)):
                continue
            raise SelectionError(
                f"No feature set fits {option} {name}.{did_you_mean(name, known)} {address} "
                f"holds:\n{_listing(sets)}"
            )


def _layer_names(sets: Iterable[FeatureSet]) -> list[str]:
    """Return all names of the layers of sets, unfinished ones, too."""
    return [
        name
        for s in sets
        for layer, own in s.outline.layers.items()
        for name in (layer, *own.names)
    ] + [name for s in sets for name in s.unfinished()]


def selecting_options(
    sets: Sequence[FeatureSet], feature_set: FeatureSet, layers: Sequence[str]
) -> list[str]:
    """Return the fewest options with which ``featstore fit`` selects layers of one set.

    `sets` are all sets of the store. The options put the layers side by side.
    """
    facets = feature_set.outline.facets
    wanted = ",".join(layers) if len(feature_set.outline.layers) > 1 else None
    options = [] if wanted is None else ["--layers", wanted]
    sources = tuple((feature_set, layer) for layer in layers)
    ways: list[dict[str, Any]] = [
        {},
        {"dataset": facets.title},
        {"model": facets.model},
        {"dataset": facets.title, "model": facets.model},
        {"bands": facets.bands},
        {"dataset": facets.title, "model": facets.model, "bands": facets.bands},
    ]
    for way in ways:
        others = {"bands": way["bands"]} if "bands" in way else {}
        try:
            found = select(sets, "", way.get("dataset"), way.get("model"), wanted, others)
            if found.sources == sources:
                return [word for k, v in way.items() for word in (f"--{k}", v)] + options
        except FeatstoreError:
            continue
    return ["--set", feature_set.set_id, *options]


def _own_name(name: str | None, model: str | None, models: list[str | None]) -> str | None:
    """Return the layer of `model` that `name` means; empty if it means another model's."""
    if name is None or ":" not in name:
        return name
    owner, _, layer = name.rpartition(":")
    if models == [None]:
        raise SelectionError(f"The layer {name!r} names the model {owner}: give --model {owner}.")
    return layer if owner == model else ""


def _fits(feature_set: FeatureSet, wanted: Mapping[str, Any]) -> bool:
    facets = feature_set.outline.facets
    for name, value in wanted.items():
        if value is None:
            continue
        if name == "set_id":
            fits = value == NEWEST or matches(feature_set.set_id, value)
        elif name == "dataset":
            # Titles are in Unicode's composed form; names from a file system may not be.
            fits = unicodedata.normalize("NFC", value) in (facets.dataset, facets.title)
        elif name == "weights":
            fits = value in facets.weights_names
        else:
            fits = str(facets.to_dict().get(name)) == str(value)
        if not fits:
            return False
    return True


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _one_set(
    sets: Sequence[FeatureSet], layers: Sequence[str | None], *, shared: bool, is_newest: bool
) -> FeatureSet | None:
    """Return the one set that has layers, or None; `shared` if one of the layers is enough."""

    def has(s: FeatureSet, layer: str | None) -> bool:
        return bool(s.outline.layers) if layer is None else bool(s.outline.find_layer(layer))

    match = any if shared else all
    found = [s for s in sets if layers and match(has(s, layer) for layer in layers)]
    # Baselines are selected only when nothing else fits.
    found = [s for s in found if not _is_baseline(s)] or found
    if len(found) == 1:
        return found[0]
    if found and is_newest:
        return newest(found)
    if found:
        raise SelectionError(_several(found))
    for s in sets:
        for name in s.unfinished():
            if name in layers or None in layers:
                raise IncompleteError(s.why_unfinished(name))
    return None


def _asked(filters: str, model: str | None, layers: Sequence[str | None]) -> str:
    """Return the options that were given, for a message."""
    wanted = " ".join(f"--layers {layer}" for layer in layers if layer)
    named = f"--model {model}" if model else ""
    return " ".join(filter(None, [filters, named, wanted])) or "the selection"


def _is_baseline(feature_set: FeatureSet) -> bool:
    facets = feature_set.outline.facets
    return facets.model in ("pixelstats", "deepsat") or is_random(facets.weights)


def _listing(sets: Sequence[FeatureSet]) -> str:
    lines = []
    for s in sets[:MAX_LISTED]:
        try:
            facets = s.outline.facets
            described = (
                f"{facets.title} {facets.model} {facets.weights} "
                f"{','.join(s.outline.layers) or '(unfinished)'}"
            )
        except FeatstoreError as error:
            described = str(error)
        lines.append(f"  {s.set_id}: {described}")
    return "\n".join(lines) + _more(sets)


def _more(sets: Sequence[FeatureSet]) -> str:
    n_more = len(sets) - MAX_LISTED
    return f"\n  and {n_more:,} more; see: featstore store ls" if n_more > 0 else ""


def newest(sets: Sequence[FeatureSet]) -> FeatureSet:
    """Return the set that was made last; refuse several of one second."""
    latest = max(s.info.created for s in sets)
    found = [s for s in sets if s.info.created == latest]
    if len(found) > 1:
        raise SelectionError(_several(found))
    return found[0]


def _several(found: Sequence[FeatureSet]) -> str:
    """Say how to choose one of several sets: by options, or by names and how these differ."""
    differing = [
        (name, option)
        for name, option in OPTIONS.items()
        if len({str(getattr(s.outline.facets, name, None)) for s in found}) > 1
    ]
    options = list(dict.fromkeys(option for _, option in differing))
    alike: dict[str, list[FeatureSet]] = {}
    for s in found[:MAX_LISTED]:
        values = [
            f"{option} {getattr(s.outline.facets, name)}"
            for name, option in differing
            if name != "dataset"
        ]
        alike.setdefault(" ".join(values), []).append(s)
    lines = {}
    for text, own in alike.items():
        if len(own) == 1:
            lines[own[0].set_id] = f"  {own[0].set_id}: {text}"
            continue
        for s, details in zip(own, differing_settings(own), strict=True):
            lines[s.set_id] = f"  --set {s.set_id}: {'; '.join(filter(None, (text, details)))}"
    said = f"{len(found)} feature sets fit. Choose one with {' or '.join([*options, '--set'])}:"
    in_order = [lines[s.set_id] for s in found[:MAX_LISTED]]
    made = [s.info.created for s in found[:MAX_LISTED]]
    last = [f"  --set {NEWEST}: the newest of them"] * (made.count(max(made)) == 1)
    return "\n".join([said, *in_order, *last]) + _more(found)


def _one_layer(feature_set: FeatureSet, name: str | None) -> str | None:
    if name is not None:
        return feature_set.outline.find_layer(name)
    layers = feature_set.outline.layers
    complete = list(layers)
    chosen = [layer for layer, own in layers.items() if own.default] or complete
    if len(chosen) == 1:
        return chosen[0]
    raise SelectionError(
        f"{feature_set.set_id} has the layers {', '.join(complete)}. Choose with --layers; "
        f"with a comma they are put side by side: --layers {','.join(complete[:2])}"
    )
