"""Files with random damage, read in a process of bounded memory and time.

The process prints one JSON object: how many files were refused with an error of featstore's, how
many were read nevertheless (a flipped bit in a pixel is a pixel), and what else happened, which
must be nothing.
"""

from __future__ import annotations

import gzip
import io
import resource
import signal
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SPARE_NBYTES = 1536 * 2**20
"""Address space that reading one small damaged file may take beside what the libraries take."""

LIMIT_S = 20.0
"""Processor time that reading one small damaged file may take."""

PATIENCE_S = 600.0
"""Longest wait for a reader that takes no processor time."""


class HangError(BaseException):
    """Reading took too long."""


def _picture(form: str) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    image = image.quantize(64) if form == "GIF" else image
    options = {"compression": "tiff_lzw"} if form == "TIFF" else {}
    image.save(stream, form, **options)
    return stream.getvalue()


def _matlab(folder: Path, version: int) -> bytes:
    import h5py
    import scipy.io

    rng = np.random.default_rng(0)
    names = ("barren land", "trees", "grassland", "none")
    cells = np.empty((4, 2), object)
    for i, name in enumerate(names):
        cells[i] = f"[{' '.join('1' if j == i else '0' for j in range(4))}]", name
    variables: dict[str, Any] = {
        "train_x": rng.integers(0, 255, (28, 28, 4, 12), dtype=np.uint8),
        "train_y": np.eye(4)[:, np.arange(12) % 4],
        "test_x": rng.integers(0, 255, (28, 28, 4, 4), dtype=np.uint8),
        "test_y": np.eye(4),
        "annotations": cells,
    }
    path = folder / "whole.mat"
    if version == 5:
        scipy.io.savemat(path, variables, do_compression=True)
        return path.read_bytes()
    with h5py.File(path, "w", userblock_size=512) as file:
        store = file.create_group("#refs#")
        for name, value in variables.items():
            if value.dtype != object:
                file.create_dataset(name, data=value.T, chunks=True, compression="gzip")
                file[name].attrs["MATLAB_class"] = np.bytes_(value.dtype.name)
                continue
            references = np.empty(value.T.shape, h5py.ref_dtype)
            for at, cell in np.ndenumerate(value.T):
                codes = np.array([[ord(c)] for c in cell], np.uint16)
                stored = store.create_dataset(f"{name}{at}", data=codes)
                stored.attrs["MATLAB_class"] = np.bytes_("char")
                references[at] = stored.ref
            file.create_dataset(name, data=references, dtype=h5py.ref_dtype)
            file[name].attrs["MATLAB_class"] = np.bytes_("cell")
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    return header + path.read_bytes()[len(header) :]


def _csv() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for split, n in (("train", 12), ("test", 4)):
        rows = rng.integers(0, 255, (n, 3136))
        text = "\n".join(",".join(map(str, row)) for row in rows) + "\n"
        files[f"X_{split}_sat4.csv"] = text.encode()
        eye = np.eye(4, dtype=int)[np.arange(n) % 4]
        files[f"y_{split}_sat4.csv"] = "\n".join(",".join(map(str, r)) for r in eye).encode()
    files["sat4annotations.csv"] = b"barren land,1,0,0,0\ntrees,0,1,0,0\ngrassland,0,0,1,0\n"
    files["sat4annotations.csv"] += b"none,0,0,0,1\n"
    return files


def _network() -> Any:
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4))


def _checkpoint(form: str) -> bytes:
    import safetensors.torch
    import torch

    state = _network().state_dict()
    if form == "safetensors":
        return bytes(safetensors.torch.save(state))
    stream = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3}, stream)
    return stream.getvalue()


def _model(folder: Path) -> bytes:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    from featstore.runs.model_file import save_model

    X = np.random.default_rng(0).normal(size=(40, 5))
    model = Pipeline([("scale", StandardScaler()), ("clf", LogisticRegression())])
    save_model(model.fit(X, np.arange(40) % 3), folder / "model.skops")
    return (folder / "model.skops").read_bytes()


def _archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for i in range(4):
            packed.writestr(f"Images/class{i}/a.txt", b"text " * 400)
    return stream.getvalue()


def _scene(folder: Path) -> bytes:
    import rasterio

    pixels = np.random.default_rng(0).integers(0, 255, (3, 96, 128), dtype=np.uint8)
    path = folder / "whole.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=128,
        height=96,
        count=3,
        dtype="uint8",
        compress="deflate",
        crs="EPSG:32633",
        transform=rasterio.Affine(1, 0, 500_000, 0, -1, 5_200_000),
    ) as raster:
        raster.write(pixels)
    return path.read_bytes()


def _read_picture(path: Path) -> None:
    from featstore.datasets.decode import decode

    assert decode(path).ndim == 3
    decode(path, 16)


def _read_sat(folder: Path) -> None:
    from featstore.datasets.registry import open_dataset

    dataset = open_dataset("sat4", folder)
    assert len(dataset.labels) == len(dataset.splits) == len(dataset.sample_ids)
    assert len(dataset.class_names) == 4
    for row in (0, len(dataset) - 1):
        assert dataset.read(row).shape == (28, 28, 4)


def _read_checkpoint(path: Path) -> None:
    from featstore.models.checkpoints import load_into, read_state_dict

    load_into(_network(), read_state_dict(path), path)


def _read_model(path: Path) -> None:
    from featstore.runs.model_file import load_model

    load_model(path.read_bytes())


def _read_archive(path: Path) -> None:
    import shutil

    from featstore.io.downloads import unzip

    folder = path.parent / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    beside = set(path.parent.iterdir())
    unzip(path, folder)
    assert set(path.parent.iterdir()) - beside == {folder}


def _read_scene(path: Path) -> None:
    from featstore.datasets.scene import Scene
    from featstore.datasets.windows import Grid, find_windows

    with Scene(str(path), ("red", "green", "blue")) as scene:
        if scene.height * scene.width > 10_000_000:
            return
        windows = find_windows(scene, Grid(scene.height, scene.width, 32, 32))
        for row in range(min(len(windows), 4)):
            windows.read(row)


def whole_file(kind: str, folder: Path) -> tuple[bytes, Path, Callable[[Path], None], Path]:
    """Return a good file of a kind, where its damaged kin go, how one is read, and from where."""
    mat = folder / "sat-4-full.mat"
    if kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"):
        path = folder / f"image.{kind.lower()}"
        return _picture(kind), path, _read_picture, path
    if kind in ("mat5", "mat73"):
        return _matlab(folder, 5 if kind == "mat5" else 7), mat, _read_sat, folder
    if kind.startswith("csv"):
        files = _csv()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        name = {"csv": "X_train_sat4.csv", "csv-labels": "y_train_sat4.csv"}.get(kind)
        name = name or ("sat4annotations.csv" if kind == "csv-names" else "X_test_sat4.csv")
        if kind == "csv-gz":
            (folder / name).unlink()
            return gzip.compress(files[name]), folder / f"{name}.gz", _read_sat, folder
        return files[name], folder / name, _read_sat, folder
    if kind in ("pth", "safetensors"):
        path = folder / f"weights.{kind}"
        return _checkpoint(kind), path, _read_checkpoint, path
    path = folder / {"skops": "model.skops", "zip": "archive.zip", "scene": "scene.tif"}[kind]
    makers = {"skops": _model, "zip": lambda _: _archive(), "scene": _scene}
    readers = {"skops": _read_model, "zip": _read_archive, "scene": _read_scene}
    return makers[kind](folder), path, readers[kind], path


KINDS = (
    *("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"),
    *("mat5", "mat73", "csv", "csv-gz", "csv-labels", "csv-names"),
    *("pth", "safetensors", "skops", "zip", "scene"),
)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with random damage: cut, overwritten, moved, doubled, bits flipped."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        # Half of the damage is near the beginning or the end, where formats keep what they are.
        size = len(data) or 1
        near = int(rng.integers(min(size, 256)))
        place = int(rng.choice([near, size - 1 - near, rng.integers(size), rng.integers(size)]))
        length = int(rng.integers(1, max(2, min(64, size))))
        match rng.integers(8):
            case 0:
                del data[place:]
            case 1:
                data[place : place + length] = rng.bytes(length)
            case 2:
                data[place : place + length] = bytes([int(rng.choice([0, 255]))]) * length
            case 3:
                data[place:place] = data[:length]
            case 4:
                del data[place : place + length]
            case 5:
                data[place:place] = rng.bytes(length)
            case _:
                for at in rng.integers(size, size=length // 4 + 1):
                    if at < len(data):
                        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _alarm(*_: object) -> None:
    raise HangError


def run(
    kind: str, folder: Path, seed: int, n: int, limit_s: float = LIMIT_S, careless: str = ""
) -> dict[str, Any]:
    """Read `n` damaged files of a kind; return what happened.

    Code that is `careless` is run in place of the reader, to see that it is noticed.
    """
    from featstore.errors import FeatstoreError

    content, path, read, source = whole_file(kind, folder)
    path.write_bytes(content)
    read(source)
    if careless:

        def read(_: Path) -> None:
            exec(careless, {})

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + SPARE_NBYTES, resource.RLIM_INFINITY))
    warnings.simplefilter("error")
    signal.signal(signal.SIGALRM, _alarm)
    signal.signal(signal.SIGPROF, _alarm)
    told: dict[str, Any] = {"refused": 0, "read": 0, "wrong": []}
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        path.write_bytes(damaged(content, rng))
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
        try:
            read(source)
            told["read"] += 1
        except FeatstoreError as error:
            told["refused"] += 1
            if not str(error).strip() or "Traceback" in str(error):
                told["wrong"].append([i, "says nothing"])
        except BaseException as error:  # noqa: BLE001 - whatever comes up is told
            told["wrong"].append([i, f"{type(error).__name__}: {error}"[:300]])
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    return told
