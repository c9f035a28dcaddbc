"""The names of networks that fit a pattern, from all sources whose libraries are installed."""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec

from featstore.errors import BackboneError
from featstore.models.model_cache import CacheFile
from featstore.models.names import MODEL_NAMES, SOURCES, check_model, source_digest
from featstore.text import did_you_mean


def search_names(pattern: str) -> list[str]:
    """Return the models whose names fit a pattern such as ``timm:*dinov3*``.

    A pattern without a source searches all that are installed. Upper and lower case are the same.
    Nothing that fits raises BackboneError.
    """
    source, colon, name = pattern.rpartition(":")
    wanted = name.casefold()
    if colon and source not in SOURCES:
        raise BackboneError(
            f"{source!r} is not a source that can be searched: {', '.join(SOURCES)}."
        )
    if colon:
        check_model(pattern)
    known = [] if colon else [*MODEL_NAMES]
    for one, (module, _) in SOURCES.items():
        if source == one or (not colon and find_spec(module) is not None):
            known += [f"{one}:{own}" for own in _names_of(one)]
    found = [one for one in known if fnmatchcase(one.rpartition(":")[2].casefold(), wanted)]
    if not found:
        hint = did_you_mean(pattern.strip("*"), known)
        raise BackboneError(
            f"No network fits {pattern!r}.{hint} In a pattern, * stands for any text: "
            "'timm:*dinov3*'."
        )
    return found


def _names_of(source: str) -> list[str]:
    """Return the names that a source's library lists; importing it takes seconds."""
    # The names are those of the installed code, also where it was changed under its version.
    module, _ = SOURCES[source]
    kept = CacheFile(f"{source}:", "names", {"source": source_digest(module)})
    if (known := kept.read_json()) is not None:
        return list(known)
    names: list[str] = import_module(f"featstore.models.{source}_source").list_names()
    kept.write_json(names)
    return names
