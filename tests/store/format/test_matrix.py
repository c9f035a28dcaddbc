from __future__ import annotations

import json

import dask.array
import numpy as np
import pytest
import xarray
import zarr

from featstore.errors import CorruptionError
from featstore.store.format import matrix as matrices
from featstore.store.format.matrix import Matrix


@pytest.fixture
def group(tmp_path):
    path = tmp_path / "features.zarr"
    matrices.create_group(path, {"made by": "a test"})
    return path


@pytest.fixture
def matrix(group, monkeypatch):
    monkeypatch.setattr(matrices, "CHUNK_NBYTES", 4 * 5 * 3)
    matrices.create_matrix(group, "fc", (10, 5), {"node": "fc"})
    return Matrix(group / "fc", writable=True)


def fill(matrix):
    X = np.arange(50, dtype=np.float32).reshape(10, 5)
    for index in range(matrix.n_chunks):
        matrix.write_chunk(index, X[slice(*matrix.chunk_range(index))])
    return X


def test_a_chunk_that_goes_while_it_is_read_is_not_read_as_fill(matrix, monkeypatch):
    fill(matrix)
    array = matrix._array

    class Vanishing:
        def __getitem__(self, rows):
            matrix.chunk_path(1).unlink()
            return array[rows]

    monkeypatch.setattr(matrix, "_array", Vanishing())
    with pytest.raises(CorruptionError, match=r"Chunk 1 .*missing"):
        matrix.read(0, 10)


@pytest.mark.parametrize("n_features", [10, 1000, 2048, 4096, 500_000])
def test_chunks_are_whole_rows_of_about_4_MB(n_features):
    rows = matrices.chunk_rows(10**6, n_features)
    assert rows == 1 or 3e6 < rows * n_features * 4 < 8e6
    assert matrices.chunk_rows(7, n_features) <= 7


def test_rows_come_back(matrix):
    X = fill(matrix)
    assert [matrix.chunk_range(i) for i in range(matrix.n_chunks)][-1] == (9, 10)
    np.testing.assert_array_equal(Matrix(matrix.path).read(0, 10), X)
    np.testing.assert_array_equal(Matrix(matrix.path).read(4, 8), X[4:8])


def test_the_same_rows_give_the_same_bytes(matrix):
    X = fill(matrix)
    first = matrix.chunk_path(1).read_bytes()
    matrix.write_chunk(1, X[3:6])
    assert matrix.chunk_path(1).read_bytes() == first


def test_chunks_of_zeros_have_files_too(matrix):
    matrix.write_chunk(0, np.zeros((3, 5), np.float32))
    assert matrix.chunk_path(0).is_file()


def test_half_a_chunk_is_refused(matrix):
    with pytest.raises(ValueError, match="shape"):
        matrix.write_chunk(0, np.zeros((2, 5), np.float32))


def test_a_missing_chunk_is_not_read_as_fill(matrix):
    fill(matrix)
    matrix.chunk_path(2).unlink()
    np.testing.assert_array_equal(matrix.read(0, 6)[0], np.arange(5))
    with pytest.raises(CorruptionError, match=r"Chunk 2 \(rows 6 to 8\).*missing"):
        matrix.read(0, 10)


@pytest.mark.parametrize("position", [0, 5, 20, -5, -1])
def test_a_flipped_bit_is_never_read(matrix, position):
    fill(matrix)
    content = bytearray(matrix.chunk_path(1).read_bytes())
    content[position] ^= 1
    matrix.chunk_path(1).write_bytes(content)
    with pytest.raises(CorruptionError, match="Chunk 1 "):
        matrix.read(0, 10)


def test_a_broken_header_is_a_clear_error(matrix):
    (matrix.path / "zarr.json").write_text("{")
    with pytest.raises(CorruptionError, match="not a readable Zarr array"):
        Matrix(matrix.path)


def test_text_and_numbers_come_back(group):
    names = np.array(["train/a.jpg", "test/Wald ü/b.tif", ""])
    matrices.create_vector(group, "sample_id", names, {})
    matrices.create_vector(group, "label", np.array([2, -1, 0], np.int32), {"class_names": ["x"]})
    assert matrices.read_vector(group, "sample_id").tolist() == names.tolist()
    assert matrices.read_vector(group, "label").dtype == np.int32
    assert matrices.read_vector(group, "label").tolist() == [2, -1, 0]


def test_a_damaged_vector_is_a_clear_error(group):
    matrices.create_vector(group, "label", np.arange(100, dtype=np.int32), {})
    path = group / "label" / "c" / "0"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match="label is damaged"):
        matrices.read_vector(group, "label")


def test_bare_zarr_dask_and_xarray_open_it(matrix, group):
    X = fill(matrix)
    matrices.create_vector(group, "label", np.arange(10, dtype=np.int32), {})
    opened = zarr.open_group(group, mode="r", zarr_format=3)
    np.testing.assert_array_equal(opened["fc"][:], X)
    np.testing.assert_array_equal(dask.array.from_zarr(group / "fc").compute(), X)
    dataset = xarray.open_zarr(group, consolidated=False)
    assert dataset["fc"].dims == ("sample", "fc.feature")
    assert dataset["label"].dims == ("sample",)
    np.testing.assert_array_equal(dataset["fc"].isel(sample=3).values, X[3])
    assert json.loads((group / "zarr.json").read_text())["zarr_format"] == 3


def test_dask_blocks_are_the_chunks(matrix):
    X = fill(matrix)
    lazy = matrix.dask()
    assert lazy.chunks == ((3, 3, 3, 1), (5,))
    np.testing.assert_array_equal(lazy.compute(), X)
