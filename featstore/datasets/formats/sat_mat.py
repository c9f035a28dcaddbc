"""Read SAT-4 and SAT-6 from MATLAB files: version 5 through SciPy, version 7.3 through h5py.

Both hold ``train_x`` and ``test_x`` (28, 28, 4, N) uint8, ``train_y`` and ``test_y`` (n_classes,
N) one-hot, and ``annotations``, a cell array (n_classes, 2). MATLAB stores the first axis
fastest; here arrays have their axes reversed, (N, 4, 28, 28), which is the same bytes in C order.
So images lie one after the other, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.formats.sat import IMAGE_SHAPE, Pixels, SatSource, class_order, from_one_hot
from featstore.errors import DatasetError
from featstore.text import join_some

CHUNK_CACHE_NBYTES = 64 * 2**20
"""HDF5's cache of decoded chunks; MATLAB's chunks hold many images, and its 1 MiB too few."""


class _MatFile(Protocol):
    """One MATLAB file, its arrays' axes reversed."""

    def kinds(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return each variable's type and (MATLAB) shape, without reading it."""

    def array(self, name: str) -> Any:
        """Return a numeric variable."""

    def cells(self, name: str) -> list[list[Any]]:
        """Return a cell array's rows: text as str, numbers as arrays."""


class _Version5:
    def __init__(self, path: Path) -> None:
        self.path = path

    def _load(self, name: str) -> NDArray[Any]:
        from scipy.io import loadmat

        # One variable at a time: SciPy then takes 1.00 times its size (measured), compressed
        # or not, since it inflates into place.
        variable: NDArray[Any] = loadmat(self.path, variable_names=[name])[name]
        return variable

    def kinds(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        from scipy.io import whosmat

        return {name: (kind, tuple(shape)) for name, shape, kind in whosmat(self.path)}

    def array(self, name: str) -> NDArray[Any]:
        return self._load(name).T

    def cells(self, name: str) -> list[list[Any]]:
        return [
            [cell.item() if cell.dtype.kind == "U" and cell.size == 1 else cell for cell in row]
            for row in self._load(name)
        ]


class _Version73:
    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _file(self) -> Any:
        import h5py

        return h5py.File(self.path, rdcc_nbytes=CHUNK_CACHE_NBYTES)

    def kinds(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {
            name: (
                "cell" if item.dtype.kind == "O" else str(item.dtype),
                tuple(reversed(item.shape)),
            )
            for name in self._file
            if hasattr(item := self._item(name), "dtype")
        }

    def array(self, name: str) -> Any:
        return self._item(name)

    def cells(self, name: str) -> list[list[Any]]:
        rows = self._item(name)[:].T
        return [[self._cell(name, reference) for reference in row] for row in rows]

    def _item(self, name: str) -> Any:
        """Return a variable or group of this file; MATLAB links to none of another."""
        import h5py

        link = self._file.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise self._foreign(name, f"an external link to {link.filename}")
        if not isinstance(link, h5py.HardLink):
            raise self._foreign(name, f"a link to {link.path}")
        return self._checked(name, self._file[name])

    def _checked(self, name: str, item: Any) -> Any:
        """Return an item whose values lie in this file: no hash of it covers other files."""
        if getattr(item, "is_virtual", False):
            files = dict.fromkeys(source.file_name for source in item.virtual_sources())
            raise self._foreign(name, f"a virtual dataset of {join_some(list(files))}")
        if stored := getattr(item, "external", None):
            files = dict.fromkeys(file for file, _, _ in stored)
            raise self._foreign(name, f"stored externally, in {join_some(list(files))}")
        return item

    def _foreign(self, name: str, found: str) -> DatasetError:
        return DatasetError(
            f"{self.path}: {name} is {found}; expected its values in this file, as MATLAB writes "
            "them."
        )

    def _cell(self, name: str, reference: Any) -> Any:
        cell = self._checked(name, self._file[reference])
        if cell.attrs.get("MATLAB_class") == b"char":
            return "".join(map(chr, cell[:].ravel()))
        return cell[:]


class MatSource(SatSource):
    """A SAT dataset in one MATLAB file, such as ``sat-4-full.mat``."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self.path = path

    def files(self) -> list[tuple[str, Path]]:
        """Return the one file."""
        return [(self.path.name, self.path)]

    def _where(self) -> Path:
        return self.path

    @cached_property
    def _mat(self) -> _MatFile:
        """The file, after a check that all variables exist with their types and shapes."""
        n = self._n_classes
        with self._read_safely():
            import h5py

            mat = _Version73(self.path) if h5py.is_hdf5(self.path) else _Version5(self.path)
            kinds = mat.kinds()
        for x, y in (("train_x", "train_y"), ("test_x", "test_y")):
            dtype, shape = self._kind(kinds, x, f"uint8 of shape {_shape(*IMAGE_SHAPE, 'N')}")
            if dtype != "uint8" or shape[:-1] != IMAGE_SHAPE:
                raise self._mismatch(x, f"uint8 of shape {_shape(*IMAGE_SHAPE, 'N')}", kinds[x])
            dtype, y_shape = self._kind(kinds, y, f"one-hot of shape {_shape(n, 'N')}")
            if dtype in ("cell", "char", "struct") or y_shape != (n, shape[-1]):
                raise self._mismatch(y, f"one-hot of shape {_shape(n, shape[-1])}", kinds[y])
        dtype, shape = self._kind(kinds, "annotations", f"cells of shape {_shape(n, 2)}")
        if dtype != "cell" or shape != (n, 2):
            raise self._mismatch("annotations", f"cells of shape {_shape(n, 2)}", (dtype, shape))
        return mat

    def _kind(
        self, kinds: dict[str, tuple[str, tuple[int, ...]]], name: str, expected: str
    ) -> tuple[str, tuple[int, ...]]:
        if name not in kinds:
            raise DatasetError(
                f"{self.path}: has no variable {name}; expected {expected}. "
                f"It has {', '.join(sorted(kinds)) or 'none'}."
            )
        return kinds[name]

    def _mismatch(
        self, name: str, expected: str, found: tuple[str, tuple[int, ...]]
    ) -> DatasetError:
        return DatasetError(
            f"{self.path}: {name} is {found[0]} of shape {_shape(*found[1])}; expected {expected} "
            f"as in {self.name.upper()}'s own file (the last axis is the image)."
        )

    @contextmanager
    def _read_safely(self) -> Iterator[None]:
        # Damaged bytes make the readers raise anything from zlib.error to TypeError.
        try:
            yield
        except DatasetError:
            raise
        except Exception as error:
            cause = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise DatasetError(
                f"{self.path}: can't be read as a MATLAB file: {cause}. It may be cut short: "
                "compare its size with the original's."
            ) from None

    def _read(self, name: str) -> Any:
        with self._read_safely():
            return self._mat.array(name)

    def _read_labels(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        train, test = (
            from_one_hot(self._read(name)[:], f"{self.path}: {name}")
            for name in ("train_y", "test_y")
        )
        return train, test

    def _read_class_names(self) -> tuple[str, ...]:
        mat = self._mat
        with self._read_safely():
            rows = mat.cells("annotations")
        return class_order(rows, self._n_classes, f"{self.path}: annotations")

    def _open_pixels(self) -> tuple[Pixels, Pixels]:
        return self._read("train_x"), self._read("test_x")

    @staticmethod
    def _to_images(pixels: Any) -> Any:
        return pixels.transpose(0, 3, 2, 1)


def _shape(*sizes: int | str) -> str:
    return f"({', '.join(map(str, sizes))})"
