"""Base of sources that change what another source says of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from featstore.datasets.source import FileSource


def _said(name: str) -> Any:
    return property(attrgetter(f"_source.{name}"))


class WrappedSource(FileSource):
    """A source that says what another one says; subclasses change some of it."""

    task = _said("task")
    target_names = _said("target_names")
    group_by = _said("group_by")
    left_out = _said("left_out")
    notes = _said("notes")
    class_names = _said("class_names")
    labels = _said("labels")
    targets = _said("targets")
    strata = _said("strata")
    groups = _said("groups")
    splits = _said("splits")
    sample_ids = _said("sample_ids")
    paths = _said("paths")

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self.name, self.title = source.name, source.title
        self.bands, self.file_bands = source.bands, source.file_bands

    def files(self) -> Sequence[tuple[str, str | Path]]:
        """Return all source files."""
        return self._source.files()

    def identity(self) -> dict[str, Any]:
        """Return what identifies the dataset beside its files' content."""
        return self._source.identity()
