"""The paths and URLs by which users name feature sets."""

from __future__ import annotations

import os
import re
import shlex

from featstore.errors import SelectionError
from featstore.store.backend import Backend
from featstore.store.set_folder import GROUP, SETS, UPLOADS


def split_set_path(name: str) -> tuple[str, str] | None:
    """Return the store and the name of the set whose folder or Zarr group a path or URL is."""
    text = name.rstrip("/")
    if "://" not in text:
        if os.sep not in name and name not in (".", GROUP):
            return None
        text = os.path.abspath(text)
    group = re.escape(GROUP)
    found = re.fullmatch(rf"(.+)/{UPLOADS}/{SETS}/([^/]+)/[^/]+/{group}", text) or re.fullmatch(
        rf"(.+)/{SETS}/([^/]+)(/{group})?", text
    )
    return (found[1], found[2]) if found else None


def own_set_id(backend: Backend, name: str) -> str:
    """Return the name of the store's set whose path or URL `name` is; any other name unchanged."""
    if (found := split_set_path(name)) is None:
        return name
    address, set_id = found
    is_own = address in (backend.address, backend.locate()) or (
        "://" not in address and os.path.realpath(address) == os.path.realpath(backend.folder)
    )
    if not is_own:
        raise SelectionError(
            f"{name} is not in {backend.address}. Give its store: --store {shlex.quote(address)}"
        )
    return set_id
