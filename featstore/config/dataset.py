"""How a dataset's files are opened, as a frozen value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featstore.config.choices import LABEL_BY


@dataclass(frozen=True)
class DatasetOptions:
    """Settings that decide which samples a dataset has, and their labels and splits.

    Each is a field of :class:`.ExtractConfig` of the same name, which describes it. A feature set
    records them, so that its images can be opened again.
    """

    seed: int = 0
    limit: int | None = None
    follow_links: bool = False
    window: int | None = None
    stride: int | None = None
    block: int | None = None
    labels: str | None = None
    label_column: str | None = None
    label_by: str = LABEL_BY[0]

    def to_record(self) -> dict[str, Any]:
        """Return the settings that are not the defaults, JSON-able."""
        default = asdict(DatasetOptions())
        chosen = {name: value for name, value in asdict(self).items() if value != default[name]}
        # Absolute: the images may be opened again from another folder.
        return chosen | ({"labels": str(Path(self.labels).absolute())} if self.labels else {})
