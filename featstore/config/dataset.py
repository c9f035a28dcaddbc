"""How a dataset's files are opened, as a frozen value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DatasetOptions:
    """Settings that decide which samples a dataset has, and their labels and splits.

    Each is a field of :class:`.ExtractConfig` of the same name, which describes it. A feature set
    records them, so that its images can be opened again.
    """

    seed: int = 0
    limit: int | None = None
    follow_links: bool = False

    def to_record(self) -> dict[str, Any]:
        """Return the settings that are not the defaults, JSON-able."""
        default = asdict(DatasetOptions())
        return {name: value for name, value in asdict(self).items() if value != default[name]}
