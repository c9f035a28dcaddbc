"""Chunk sizes and codecs: write rate, read rate and size, for features of four kinds.

    python benchmarks/bench_sink.py [--repeats 3]

zarr writes and reads with each codec. featstore writes and reads chunks itself, and chooses between
two of the codecs for each chunk. All rates are from one run, in which the codecs take turns, of one
thread.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
import zarr
from results import save, table
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from featstore.store.format import matrix as matrices
from featstore.store.format.matrix import Matrix

N_ROWS, N_FEATURES = 8192, 1000
CHUNK_ROWS = 1024
KINDS = ("float32", "bfloat16", "bfloat16 after ReLU", "bfloat16 as float16")
OURS = "featstore"
SMALL = "blosc zstd 1, shuffle"


def features(kind: str) -> np.ndarray:
    """Return features: float32, of bfloat16 precision, after a ReLU, or stored as float16."""
    X = np.random.default_rng(0).standard_normal((N_ROWS, N_FEATURES), dtype=np.float32)
    if kind == "float32":
        return X
    rounded = torch.from_numpy(X).bfloat16().float().numpy()
    if kind == "bfloat16 as float16":
        return rounded.astype(np.float16)
    return rounded if kind == "bfloat16" else np.maximum(rounded - 0.5, 0)


def codecs(size: int) -> dict[str, list[object] | None]:
    """Return the codecs to compare, by name, for numbers of `size` bytes; None is featstore's."""
    return {
        OURS: None,
        "none": [],
        "zstd 0": [ZstdCodec(level=0)],
        "blosc lz4, shuffle": [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=size)],
        SMALL: [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=size)],
        "blosc zstd 3, shuffle": [
            BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=size)
        ],
    }


def open_matrix(
    X: np.ndarray, compressors: list[object] | None, rows: int, path: Path
) -> tuple[Callable[[int, np.ndarray], object], Callable[[int], object]]:
    """Make an empty matrix like `X`, and return what writes and what reads one of its chunks."""
    if compressors is None:
        matrices.create_matrix(path.parent, path.name, X.shape, {}, X.dtype.name)
        own = Matrix(path, len(X))
        out = np.empty((own.chunk_rows, X.shape[1]), X.dtype)
        return own.write_chunk, lambda i: own.read_chunk(i, out[: len(range(*own.chunk_range(i)))])
    array = zarr.create_array(
        path,
        shape=X.shape,
        chunks=(rows, X.shape[1]),
        dtype=X.dtype,
        compressors=[*compressors, Crc32cCodec()],
    )

    def write(index: int, block: np.ndarray) -> None:
        array[index * rows : index * rows + len(block)] = block

    return write, lambda i: array[i * rows : (i + 1) * rows]


def measure(
    X: np.ndarray, compressors: list[object] | None, rows: int, folder: Path
) -> dict[str, float]:
    """Write and read a matrix in chunks of `rows`, and return rates in MB/s and the size."""
    path = folder / "matrix"
    shutil.rmtree(path, ignore_errors=True)
    if compressors is None:
        rows = matrices.chunk_rows(*X.shape, X.dtype.name)
    write, read = open_matrix(X, compressors, rows, path)
    blocks = [X[start : start + rows] for start in range(0, len(X), rows)]
    began = time.perf_counter()
    for index, block in enumerate(blocks):
        write(index, block)
    write_s = time.perf_counter() - began
    began = time.perf_counter()
    for index in range(len(blocks)):
        read(index)
    read_s = time.perf_counter() - began
    nbytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "write MB/s": X.nbytes / write_s / 1e6,
        "read MB/s": X.nbytes / read_s / 1e6,
        "size": nbytes / X.nbytes,
    }


def measure_all(
    X: np.ndarray, compared: list[tuple[list[object] | None, int]], repeats: int, folder: Path
) -> list[dict[str, float]]:
    """Measure codecs and rows of a chunk in turns, and return the medians of each."""
    rounds = [
        [measure(X, compressors, rows, folder) for compressors, rows in compared]
        for _ in range(repeats)
    ]
    return [
        {key: statistics.median(found[key] for found in own) for key in own[0]}
        for own in zip(*rounds, strict=True)
    ]


@click.command()
@click.option("--repeats", default=3, show_default=True)
def main(repeats: int) -> None:
    """Compare codecs at the store's chunk size, then chunk sizes with the store's codec."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            X = features(kind)
            named = codecs(X.itemsize)
            compared = [(compressors, CHUNK_ROWS) for compressors in named.values()]
            for name, found in zip(
                named, measure_all(X, compared, repeats, Path(folder)), strict=True
            ):
                n = matrices.chunk_rows(*X.shape, X.dtype.name) if name == OURS else CHUNK_ROWS
                rows.append({"features": kind, "codec": name, "rows": n, **found})
        X = features("float32")
        for n in (1, 32, 256, 4096):
            part = X[: 256 if n == 1 else N_ROWS]
            (found,) = measure_all(part, [(codecs(X.itemsize)[SMALL], n)], repeats, Path(folder))
            rows.append({"features": "float32", "codec": SMALL, "rows": n, **found})
    title = f"{N_ROWS:,} x {N_FEATURES:,} features"
    table(rows, f"{title}, size as a fraction of the raw bytes; medians of {repeats} rounds")
    save("sink", rows, title=title)


if __name__ == "__main__":
    main()
