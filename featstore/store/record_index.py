"""The index of a store's records: what lists and searches need of each, while it is unchanged."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.environment import __version__
from featstore.errors import DatasetError, StoreError
from featstore.io.stamped_cache import StampedCache, stamp_text
from featstore.store.backend import Backend, Kind
from featstore.store.format.layer_schema import LayerRecord
from featstore.store.format.set_schema import Facets, SetRecord

if TYPE_CHECKING:
    from featstore.store.feature_set import FeatureSet

VERSION = f"{__version__} 7"
"""Version of what the index holds; another one is built again."""


def index_path(backend: Backend, kind: Kind) -> Path:
    """Return the file that holds the index of a store's sets or runs; it may always be deleted."""
    return backend.cache_dir / "index" / f"{kind}.json"


def open_index(backend: Backend, kind: Kind) -> StampedCache:
    """Return the index of a store's sets or runs."""
    return StampedCache(index_path(backend, kind), VERSION)


@dataclass(frozen=True)
class LayerOutline:
    """What a search needs of a complete layer's record."""

    names: tuple[str, ...]
    default: bool


@dataclass(frozen=True)
class SetOutline:
    """What a search needs of a set's records; `layers` are in the order of completion."""

    facets: Facets
    fingerprint: str
    n_samples: int
    layers: dict[str, LayerOutline]

    @classmethod
    def of(cls, info: SetRecord, layers: Mapping[str, LayerRecord]) -> SetOutline:
        """Return the outline of a set's records."""
        own = {name: LayerOutline(one.names, one.default) for name, one in layers.items()}
        return cls(info.facets, info.dataset.fingerprint, info.dataset.n_samples, own)

    def find_layer(self, name: str | None) -> str | None:
        """Return the complete layer of a name (None: the default layer), if any."""
        for layer, own in self.layers.items():
            if own.default if name is None else name in (layer, *own.names):
                return layer
        return None

    def to_json(self) -> list[Any]:
        """Return it as JSON-able values."""
        layers = {name: [list(one.names), one.default] for name, one in self.layers.items()}
        return [self.facets.to_dict(), self.fingerprint, self.n_samples, layers]

    @classmethod
    def from_json(cls, value: list[Any]) -> SetOutline:
        """Return what :meth:`to_json` returned the values of."""
        facets, fingerprint, n_samples, layers = value
        own = {name: LayerOutline(tuple(names), last) for name, (names, last) in layers.items()}
        return cls(Facets.model_validate(facets), fingerprint, n_samples, own)


def outline_sets(sets: Sequence[FeatureSet], index: StampedCache) -> None:
    """Give sets their outlines: from the index, or from their records; damaged ones get none."""
    for feature_set in sets:
        stamp = _stamp_of(feature_set.path)
        known = index.get(feature_set.set_id, stamp)
        if known is not None:
            vars(feature_set)["outline"] = SetOutline.from_json(known)
            continue
        with suppress(StoreError):
            index.put(feature_set.set_id, stamp, feature_set.outline.to_json())
    index.save(one.set_id for one in sets)


def _stamp_of(folder: Path) -> str:
    """Return the stamps of a set's records, one a line; a set that is being removed has none."""
    names, layers = ["set.json"], f"{folder}/layers"
    with suppress(OSError):
        names += [f"layers/{name}" for name in sorted(os.listdir(layers)) if name[0] != "."]
    try:
        return "\n".join(f"{name!r} {stamp_text(f'{folder}/{name}')}" for name in names)
    except DatasetError:
        return ""
