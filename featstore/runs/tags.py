"""Names that a user gives to runs, and the removal of runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featstore.errors import RunError
from featstore.io.files import read_json, write_json
from featstore.io.locks import locked
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore
from featstore.text import refuse_short_name

TAG = r"[A-Za-z0-9][\w.+-]{0,63}"
"""What a tag looks like."""


RESERVED = ("last", "best", "all")
"""Names with a meaning of their own."""


def read_tags(store: FeatureStore) -> dict[str, str]:
    """Return the run of each tag."""
    path = _path(store)
    return (
        {str(tag): str(run_id) for tag, run_id in read_json(path)["tags"].items()}
        if (path.is_file())
        else {}
    )


def tags_of(store: FeatureStore) -> dict[str, list[str]]:
    """Return the tags of each run that has any."""
    found: dict[str, list[str]] = {}
    for tag, run_id in sorted(read_tags(store).items()):
        found.setdefault(run_id, []).append(tag)
    return found


def tag_run(store: FeatureStore, run: Run, tag: str) -> str | None:
    """Give a run a name, and return the run that had it before."""
    if not re.fullmatch(TAG, tag, re.ASCII) or tag in RESERVED:
        raise RunError(
            f"{tag!r} can't name a run. Use up to 64 letters, digits, '.', '_', '+' or '-', and "
            f"not {', '.join(RESERVED)}."
        )
    if any(path.name == tag for path in store.run_folders()):
        raise RunError(f"{tag} is the name of a run itself. Choose another name.")
    with _changing(store) as tags:
        before = tags.get(tag)
        tags[tag] = run.run_id
    return before if before != run.run_id else None


def remove_tag(store: FeatureStore, tag: str) -> str:
    """Take a tag away, and return the run that had it."""
    with _changing(store) as tags:
        if tag not in tags:
            known = ", ".join(sorted(tags)) or "none"
            raise RunError(f"No run of {store.address} is tagged {tag!r}. Tags are: {known}.")
        return tags.pop(tag)


def run_to_remove(name: str, store: FeatureStore) -> Run:
    """Return the run that a name means; too short a part of its id is refused."""
    from featstore.runs.find import is_alias
    from featstore.runs.opening import open_run

    run = open_run(name, store)
    if not is_alias(name, store) and not Path(name).is_dir():
        refuse_short_name(run.run_id, name)
    return run


def remove_run(store: FeatureStore, run: Run) -> None:
    """Delete a run, and its tags."""
    if run.run_id in read_tags(store).values():
        with _changing(store) as tags:
            for tag in [tag for tag, run_id in tags.items() if run_id == run.run_id]:
                del tags[tag]
    store.backend.remove_run(run.run_id)


def _path(store: FeatureStore) -> Path:
    # Beside the runs: a record has a digest of itself, and a refit replaces a run's folder.
    return store.runs_dir / "tags.json"


@contextmanager
def _changing(store: FeatureStore) -> Iterator[dict[str, str]]:
    """Yield the tags to change, and write them."""
    if "://" in store.address:
        raise RunError(
            f"Runs in {store.address} can't be tagged: tags are kept for stores in a folder. "
            "Name the run by the last 8 characters of its id."
        )
    with locked(store.backend.lock_path("tags"), "tags"):
        tags = read_tags(store)
        yield tags
        write_json(_path(store), {"tags": tags})
