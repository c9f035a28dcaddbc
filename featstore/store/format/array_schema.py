"""The metadata of a set's arrays, ``zarr.json``, as models that allow what featstore writes.

zarr runs the codecs that the metadata name and allocates the sizes that they state. Therefore the
metadata are compared with these models and with the set's records before zarr reads them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from featstore.errors import CorruptionError
from featstore.io.files import read_record
from featstore.store.format.fields import Count, Items, Width, first_problem

VECTORS = {"label": "int32", "split": "uint8", "sample_id": "string", "first_row": "int64"}
"""Data types, by name, of the arrays of a set that belong to no layer."""


MORE_VECTORS = {"group": "int32", "target": "float32", "place": "int32"}
"""Those that only some sets have: groups of samples, labels that are not one class, and scene, row
and column of windows."""


ARRAY_TYPES = VECTORS | MORE_VECTORS
"""Data types of all these arrays by name."""


VECTOR_ROWS = 100_000
"""Most rows of a vector's chunk."""


MAX_TEXT_NBYTES = 4096
"""Most bytes of a sample id in UTF-8; Linux has no longer paths."""


MAX_CHUNK_NBYTES = 64 * 2**20
"""Most bytes of a chunk of texts or of several rows; featstore writes some 4 MB."""


def vector_rows(n_samples: int, n_targets: int = 1) -> int:
    """Return the rows of a chunk of a vector, or of an array with a column for each target."""
    return max(1, min(n_samples, VECTOR_ROWS, MAX_CHUNK_NBYTES // (4 * n_targets)))


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)


class _Nothing(_Part):
    pass


class _LittleEndian(_Part):
    endian: Literal["little"]


class _Bytes(_Part):
    name: Literal["bytes"]
    configuration: _LittleEndian | None = None


class _Text(_Part):
    name: Literal["vlen-utf8"]
    configuration: _Nothing | None = None


class _BloscSettings(_Part):
    typesize: Annotated[int, Field(ge=1, le=255)]
    cname: Literal["zstd"]
    clevel: Annotated[int, Field(ge=0, le=9)]
    shuffle: Literal["noshuffle", "shuffle", "bitshuffle"]
    blocksize: Count


class _Blosc(_Part):
    name: Literal["blosc"]
    configuration: _BloscSettings


class _Crc32c(_Part):
    name: Literal["crc32c"]
    configuration: _Nothing | None = None


class _ChunkShape(_Part):
    chunk_shape: Items[Width]


class _Grid(_Part):
    name: Literal["regular"]
    configuration: _ChunkShape


class _Separator(_Part):
    separator: Literal["/"]


class _KeyEncoding(_Part):
    name: Literal["default"]
    configuration: _Separator


class ArrayMetadata(_Part):
    """The content of an array's ``zarr.json``."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: Items[Width]
    data_type: Literal["float32", "float16", "int32", "uint8", "int64", "string"]
    chunk_grid: _Grid
    chunk_key_encoding: _KeyEncoding
    fill_value: Literal["NaN", "", 0]
    codecs: Annotated[
        tuple[Annotated[_Bytes | _Text, Field(discriminator="name")], _Blosc, _Crc32c],
        Field(strict=False),
    ]
    attributes: dict[str, Any] = {}
    dimension_names: Items[str] | None = None
    storage_transformers: Annotated[Items[Any], Field(max_length=0)] = ()

    @model_validator(mode="after")
    def _codec_suits_type(self) -> Self:
        if (self.codecs[0].name == "vlen-utf8") != (self.data_type == "string"):
            raise ValueError(f"the codec {self.codecs[0].name} is none of {self.data_type}")
        if self.codecs[0].configuration is None and self.data_type not in ("uint8", "string"):
            raise ValueError("the codec bytes names no order of bytes")
        return self

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of every chunk, also of the last."""
        return self.chunk_grid.configuration.chunk_shape

    @property
    def n_chunks(self) -> int:
        """Number of chunks, which hold whole rows."""
        return -(-self.shape[0] // self.chunk_shape[0])

    @property
    def chunk_nbytes(self) -> tuple[int, int]:
        """Fewest and most bytes of a chunk before compression."""
        n_values = math.prod(self.chunk_shape)
        if self.data_type != "string":
            nbytes = n_values * np.dtype(self.data_type).itemsize
            return nbytes, nbytes
        # The number of texts, and before each text its length.
        most = 4 + (4 + MAX_TEXT_NBYTES) * n_values
        return 4 + 4 * n_values, min(most, MAX_CHUNK_NBYTES)

    def misfit(self, shape: tuple[int | None, ...], data_type: str | None) -> str | None:
        """Return what differs from the record's shape and type (None: any), or None."""
        if data_type is not None and self.data_type != data_type:
            return f"data_type: {self.data_type}; its record says {data_type}"
        is_shape = len(self.shape) == len(shape) and all(
            wanted in (None, found) for wanted, found in zip(shape, self.shape, strict=True)
        )
        if not is_shape:
            return f"shape: {self.shape}; its record says {shape}"
        rows, *columns = self.chunk_shape
        is_small = rows == 1 or self.chunk_nbytes[1] <= MAX_CHUNK_NBYTES
        is_chunk = rows <= self.shape[0] and is_small
        if len(shape) == 1:
            is_chunk = rows == min(VECTOR_ROWS, self.shape[0])
        if not is_chunk or columns != list(self.shape[1:]):
            return f"chunk_shape: {self.chunk_shape} of an array of shape {self.shape}"
        return None


def read_metadata(
    path: Path, shape: tuple[int | None, ...], data_type: str | None
) -> ArrayMetadata:
    """Return the metadata of the array at `path`, if featstore writes such for its record.

    Raises
    ------
    CorruptionError
        When it does not, or the file can't be read.
    """
    try:
        # zarr's own parser: another one might take another value of a key that comes twice.
        content = json.loads(read_record(path / "zarr.json"))
        found = ArrayMetadata.model_validate(content)
        wrong = found.misfit(shape, data_type)
    except ValidationError as error:
        wrong = first_problem(error)
    except (OSError, ValueError, RecursionError) as error:
        wrong = str(error)
    if wrong:
        raise CorruptionError(
            f"{path} is not a readable Zarr array of featstore: {wrong[:300]}. Remove its set with "
            "`featstore store rm`, and extract again."
        )
    return found
