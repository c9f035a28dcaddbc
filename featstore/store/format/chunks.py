"""Pack values into the bytes of one Zarr chunk, and unpack them: Blosc, then a CRC-32C."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import ModuleType
from typing import cast

import google_crc32c
import numpy as np

from featstore.store.format.array_schema import ArrayMetadata

QUICK, SMALL = (b"lz4", 5), (b"zstd", 1)
"""Compressors of Blosc with their levels: one that is read at several GB/s, and one that makes
smaller chunks."""


MIN_SAVING = 0.06
"""Share of the values' bytes by which SMALL must make a chunk smaller than QUICK does."""


SAMPLE_NBYTES = 256 * 2**10
"""Bytes at the beginning of a chunk on which both are tried."""


HEADER_NBYTES = 16
"""Bytes of Blosc's header, and most bytes by which its output is larger than its input."""


CHECKSUM_NBYTES = 4
"""Bytes of the CRC-32C at the end of a chunk."""


def import_blosc() -> ModuleType:
    """Import Blosc for one thread at a time."""
    from numcodecs import blosc

    # Threads of Blosc write blocks in the order in which they finish, so the same rows would not
    # always give the same bytes.
    blosc.use_threads = False
    return cast("ModuleType", blosc)


def stored_type(metadata: ArrayMetadata) -> np.dtype:
    """Return the type of an array's numbers in its files."""
    return np.dtype(metadata.data_type).newbyteorder("<")


def pack(values: np.ndarray) -> bytes:
    """Return the bytes of a chunk of rows; the same values give the same bytes.

    Blosc's header names the compressor, so each chunk may have its own. Measured by
    benchmarks/bench_sink.py: dense features shrink by 7 % with lz4 and by 8 % with zstd, which is
    read at a fifth of the rate. Sparse features (after a ReLU) shrink by much more with zstd.
    """
    blosc = import_blosc()
    own = np.ascontiguousarray(values)
    sample = own[: max(1, SAMPLE_NBYTES // max(1, own[0].nbytes))]
    quick, small = (len(blosc.compress(sample, *method)) for method in (QUICK, SMALL))
    method = SMALL if quick - small > MIN_SAVING * sample.nbytes else QUICK
    packed: bytes = blosc.compress(own, *method)
    checksum: int = google_crc32c.value(packed)
    return packed + checksum.to_bytes(CHECKSUM_NBYTES, "little")


def unpack(path: Path, metadata: ArrayMetadata, out: np.ndarray | None = None) -> np.ndarray:
    """Return the values of a chunk's file, in `out` if it is given, or its bytes if it has texts.

    `out` is contiguous, with a chunk's shape and type.

    Raises
    ------
    ValueError
        When the file is missing or damaged; the message says what is wrong.
    """
    most = metadata.chunk_nbytes[1] + HEADER_NBYTES + CHECKSUM_NBYTES
    try:
        with path.open("rb") as stream:
            # A file of holes takes no room on the disk, and all of the memory.
            if (nbytes := os.fstat(stream.fileno()).st_size) > most:
                raise ValueError(f"it has {nbytes:,} bytes; expected at most {most:,}")
            content = stream.read(nbytes)
    except FileNotFoundError:
        raise ValueError("its file is missing") from None
    except OSError as error:
        raise ValueError(f"it can't be read ({error.strerror})") from error
    if problem := header_problem(content[:HEADER_NBYTES], len(content), metadata):
        raise ValueError(problem)
    packed = np.frombuffer(content, np.uint8)[:-CHECKSUM_NBYTES]
    checksum = int.from_bytes(content[-CHECKSUM_NBYTES:], "little")
    if google_crc32c.value(packed) != checksum:
        raise ValueError("its checksum is not that of its content")
    try:
        if metadata.data_type == "string":
            return np.frombuffer(import_blosc().decompress(packed), np.uint8)
        if out is None:
            out = np.empty(metadata.chunk_shape, stored_type(metadata))
        import_blosc().decompress(packed, out)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return out


def chunk_problem(path: Path, metadata: ArrayMetadata) -> str | None:
    """Return why a chunk's file must not be unpacked, or None; only texts are unpacked for it."""
    try:
        with path.open("rb") as stream:
            header = stream.read(HEADER_NBYTES)
        problem = header_problem(header, path.stat().st_size, metadata)
        if problem or metadata.data_type != "string":
            return problem
        return text_problem(unpack(path, metadata), metadata)
    except FileNotFoundError:
        return "its file is missing"
    except OSError as error:
        return f"it can't be read ({error.strerror})"
    except ValueError as error:
        return str(error)


def header_problem(header: bytes, nbytes: int, metadata: ArrayMetadata) -> str | None:
    """Return why a chunk of this header and size must not be unpacked, or None.

    Blosc allocates the size that its header states, and reads as many bytes as the header states.
    """
    if len(header) < HEADER_NBYTES:
        return f"it has {nbytes} bytes"
    unpacked, _, packed = struct.unpack("<4xIII", header)
    fewest, most = metadata.chunk_nbytes
    if not fewest <= unpacked <= most:
        expected = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        return f"its header states {unpacked:,} bytes; expected {expected}"
    if packed + CHECKSUM_NBYTES != nbytes:
        return (
            f"its header states {packed + CHECKSUM_NBYTES:,} bytes of its file, which has "
            f"{nbytes:,}"
        )
    if packed > unpacked + HEADER_NBYTES:
        return f"its header states {packed:,} bytes for {unpacked:,} bytes of content"
    return None


def text_problem(content: np.ndarray, metadata: ArrayMetadata) -> str | None:
    """Return what is wrong with a chunk's number of texts, or None.

    The codec of texts allocates the number of texts that it finds.
    """
    (found,), expected = struct.unpack("<I", content[:4].tobytes()), metadata.chunk_shape[0]
    return None if found == expected else f"it has {found:,} texts; expected {expected:,}"
