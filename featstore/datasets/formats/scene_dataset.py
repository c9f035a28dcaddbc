"""The dataset of the windows of scenes, and what a feature set records of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.base import ArrayDataset
from featstore.datasets.formats.scenes import LABELS, SceneSource
from featstore.datasets.reading import Range, Reading
from featstore.io.files import json_digest


class SceneDataset(ArrayDataset):
    """Windows of scenes; see :class:`SceneSource`."""

    _source: SceneSource

    @property
    def reading(self) -> Reading:
        """Which bands are read, and how their values become bytes."""
        return self._source.reading

    def read_as(self, reading: Reading) -> Self:
        """Return the same windows, read in another way."""
        return type(self)(self._source.read_as(reading), self._limit)

    def sampled_range(self, low: float, high: float) -> tuple[Range, ...]:
        """Return, for each band, the values at two percentiles."""
        return self._source.sampled_range(low, high)

    def record_decoding(self, record: dict[str, Any]) -> dict[str, Any]:
        """Add to a record of settings how values become bytes."""
        if self.reading.is_default:
            return record
        return record | {"reading": self.reading.to_record() | {"names": list(self.bands)}}

    def windows_record(self, sha256: Mapping[str, str]) -> dict[str, Any]:
        """Return the scenes and their division into windows, as a feature set records them.

        `sha256` are the hashes of the files by name.
        """
        shown = [[name, digest] for name, digest in sha256.items() if not name.startswith(LABELS)]
        content = {"identity": self._source.unlabelled_identity(), "files": shown}
        return {
            "fingerprint": json_digest(content),
            "window": self._source.window,
            "stride": self._source.stride,
            "scenes": [
                {
                    "name": frame.name,
                    "path": str(frame.path.absolute()),
                    "bands": list(frame.bands),
                    **frame.georeference.to_record(),
                }
                for frame in self._source.frames
            ],
        }

    @cached_property
    def places(self) -> NDArray[np.int32]:
        """Scene, row and column of each window's cell, (n_samples, 3)."""
        return self._source.places[self.rows]
