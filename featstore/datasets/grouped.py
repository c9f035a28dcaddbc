"""Group images by their names or places; a drawn split cuts no group."""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.drawing import draw_split_of_groups, notes_on_groups
from featstore.datasets.reading import center
from featstore.datasets.source import FileSource
from featstore.datasets.wrapped import WrappedSource
from featstore.environment import available_cores
from featstore.errors import ConfigError, DatasetError, ImageError


class GroupedSource(WrappedSource):
    """The images of a source, in groups.

    `groups_from` is ``regex:PATTERN``, whose first parenthesis (or whole match) in a sample id is
    the group, or ``grid:SIZE``, which groups rasters by the cell of a grid that holds their
    centre; the size is in the files' map units. A split that the source draws is drawn anew, by
    whole groups.
    """

    def __init__(self, source: FileSource, groups_from: str, seed: int) -> None:
        super().__init__(source)
        self._kind, _, self._rule = groups_from.partition(":")
        self._seed = seed
        if self._kind not in ("regex", "grid"):
            raise ConfigError(
                f"{source.name} has no columns, so that groups_from can't be {groups_from!r}. "
                "Give regex:PATTERN or grid:SIZE."
            )

    @property
    def group_by(self) -> str:  # type: ignore[override]
        """What a group is."""
        return f"regex {self._rule}" if self._kind == "regex" else f"a grid of {self._rule}"

    @cached_property
    def _groups(self) -> tuple[NDArray[np.int32], list[str]]:
        by_name = self._kind == "regex"
        names = self._groups_by_name() if by_name else self._groups_by_place()
        every, codes = np.unique(np.array(names), return_inverse=True)
        return codes.astype(np.int32), every.tolist()

    def _groups_by_name(self) -> list[str]:
        pattern = re.compile(self._rule)
        found = []
        for sample_id in self._source.sample_ids:
            match = pattern.search(sample_id)
            group = match and match[1 if pattern.groups else 0]
            if not group:
                raise DatasetError(
                    f"{self.title}: the image {sample_id} has no group by regex {self._rule}. "
                    "Give a pattern that fits all sample ids."
                )
            found.append(group)
        return found

    def _groups_by_place(self) -> list[str]:
        size = float(self._rule)

        def cell(row: int) -> str:
            try:
                x, y, crs = center(self._source.paths[row])
            except ImageError as error:
                raise DatasetError(f"{error} So it is in no cell of a grid.") from None
            return f"{math.floor(x / size)} {math.floor(y / size)} {crs}"

        with ThreadPoolExecutor(max(2, available_cores())) as pool:
            return list(pool.map(cell, range(len(self._source.sample_ids))))

    @property
    def groups(self) -> NDArray[np.int32]:
        """Group of each sample, shape (n_samples,)."""
        return self._groups[0]

    @property
    def _is_drawn(self) -> bool:
        return "split" in self._source.identity()

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_samples,); drawn ones cut no group."""
        if not self._is_drawn:
            return self._source.splits
        groups, names = self._groups
        return draw_split_of_groups(self._source.strata, groups, names, self._seed, self.group_by)

    @property
    def notes(self) -> list[str]:
        """What people should know of the files and the groups."""
        own = notes_on_groups(
            self.groups, self.group_by, self.labels, self.splits, self.class_names
        )
        return [*self._source.notes, *own]

    def identity(self) -> dict[str, Any]:
        """Return what identifies the dataset, with the rule of the groups."""
        return self._source.identity() | {"groups": f"{self._kind}:{self._rule}"}
