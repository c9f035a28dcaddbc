"""What chunk size and codec cost: write and read rates, and size, of features of three kinds.

    python benchmarks/bench_sink.py

The store's own choice is marked. All rates come from one run, on one machine.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import zarr
from results import save, table
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

N_ROWS, N_FEATURES = 8192, 1000
OURS = "blosc zstd 1, shuffle"


def features(kind: str) -> np.ndarray:
    """Return features of a kind: float32, of bfloat16 precision, or those after a ReLU."""
    X = np.random.default_rng(0).standard_normal((N_ROWS, N_FEATURES), dtype=np.float32)
    if kind == "float32":
        return X
    rounded = torch.from_numpy(X).bfloat16().float().numpy()
    return rounded if kind == "bfloat16" else np.maximum(rounded - 0.5, 0)


def codecs() -> dict[str, list[object]]:
    """Return the codecs that are compared, by name."""
    return {
        "none": [],
        "zstd 0": [ZstdCodec(level=0)],
        "blosc lz4, shuffle": [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=4)],
        OURS: [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=4)],
        "blosc zstd 3, shuffle": [
            BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=4)
        ],
    }


def measure(X: np.ndarray, compressors: list[object], rows: int, folder: Path) -> dict[str, float]:
    """Write and read a matrix in chunks of `rows`, and return rates in MB/s and the size."""
    path = folder / "matrix"
    shutil.rmtree(path, ignore_errors=True)
    array = zarr.create_array(
        path,
        shape=X.shape,
        chunks=(rows, X.shape[1]),
        dtype="float32",
        compressors=[*compressors, Crc32cCodec()],
    )
    began = time.perf_counter()
    for start in range(0, len(X), rows):
        array[start : start + rows] = X[start : start + rows]
    write_s = time.perf_counter() - began
    began = time.perf_counter()
    for start in range(0, len(X), rows):
        array[start : start + rows]
    read_s = time.perf_counter() - began
    nbytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "write_MB_per_s": X.nbytes / write_s / 1e6,
        "read_MB_per_s": X.nbytes / read_s / 1e6,
        "size": nbytes / X.nbytes,
    }


def main() -> None:
    """Compare codecs at the store's chunk size, then chunk sizes with the store's codec."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("float32", "bfloat16", "bfloat16 after ReLU"):
            X = features(kind)
            for name, compressors in codecs().items():
                found = measure(X, compressors, 1024, Path(folder))
                mark = " (ours)" if name == OURS else ""
                rows.append({"features": kind, "codec": name + mark, "rows": 1024, **found})
        X = features("float32")
        for n in (1, 32, 256, 4096):
            part = X[: 256 if n == 1 else N_ROWS]
            found = measure(part, codecs()[OURS], n, Path(folder))
            rows.append({"features": "float32", "codec": OURS, "rows": n, **found})
    table(rows, f"{N_ROWS} x {N_FEATURES} float32; size is a fraction of the raw bytes")
    save("sink", rows, sys.argv[1:])


if __name__ == "__main__":
    main()
