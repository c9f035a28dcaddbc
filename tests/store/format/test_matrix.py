from __future__ import annotations

import json
import os
import tracemalloc

import dask.array
import google_crc32c
import numcodecs
import numpy as np
import pytest
import xarray
import zarr

from featstore.errors import CorruptionError
from featstore.store.format import matrix as matrices
from featstore.store.format.array_schema import MAX_TEXT_NBYTES, read_metadata
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
    return Matrix(group / "fc", 10)


def fill(matrix):
    X = np.arange(50, dtype=np.float32).reshape(10, 5)
    for index in range(matrix.n_chunks):
        matrix.write_chunk(index, X[slice(*matrix.chunk_range(index))])
    return X


@pytest.mark.parametrize("n_features", [10, 1000, 2048, 4096, 500_000])
def test_chunks_are_whole_rows_of_about_4_MB(n_features):
    rows = matrices.chunk_rows(10**6, n_features)
    assert rows == 1 or 3e6 < rows * n_features * 4 < 8e6
    assert matrices.chunk_rows(7, n_features) <= 7


def test_rows_come_back(matrix):
    X = fill(matrix)
    assert [matrix.chunk_range(i) for i in range(matrix.n_chunks)][-1] == (9, 10)
    np.testing.assert_array_equal(Matrix(matrix.path, 10).read(0, 10), X)
    np.testing.assert_array_equal(Matrix(matrix.path, 10).read(4, 8), X[4:8])
    side_by_side = np.zeros((10, 7), np.float32)
    for index in range(matrix.n_chunks):
        matrix.read_chunk(index, side_by_side[slice(*matrix.chunk_range(index)), 1:6])
    np.testing.assert_array_equal(side_by_side[:, 1:6], X)


def test_the_same_rows_give_the_same_bytes(matrix):
    X = fill(matrix)
    first = matrix.chunk_path(1).read_bytes()
    matrix.write_chunk(1, X[3:6])
    assert matrix.chunk_path(1).read_bytes() == first


def test_dense_rows_are_packed_for_speed_and_sparse_ones_for_size(group):
    X = np.random.default_rng(0).standard_normal((2000, 100), dtype=np.float32)
    matrices.create_matrix(group, "fc", X.shape, {})
    matrix = Matrix(group / "fc", len(X))
    sizes = {}
    for name, rows in {"dense": X, "sparse": np.maximum(X - 1, 0)}.items():
        matrix.write_chunk(0, rows)
        header = matrix.chunk_path(0).read_bytes()[:16]
        sizes[name] = header[2] >> 5, matrix.chunk_path(0).stat().st_size / X.nbytes
        np.testing.assert_array_equal(zarr.open_array(matrix.path)[:], rows)
    lz4, zstd = 1, 4
    assert sizes["dense"] == (lz4, pytest.approx(0.93, abs=0.03))
    assert sizes["sparse"] == (zstd, pytest.approx(0.29, abs=0.03))


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


def test_a_shortage_of_memory_is_no_damage(matrix, monkeypatch):
    fill(matrix)

    def short(*packed):
        raise MemoryError

    monkeypatch.setattr(numcodecs.blosc, "decompress", short)
    with pytest.raises(MemoryError):
        matrix.read(0, 10)


def test_of_unfinished_files_those_that_zarr_wrote_are_swept(matrix):
    fill(matrix)
    folder = matrix.chunk_path(0).parent
    own = [folder / f"0.{'a1' * 16}.partial", matrix.path / f"zarr.{'0' * 32}.partial"]
    others = [folder / "thesis.partial", folder / "0.partial"]
    for path in own + others:
        path.write_bytes(b"x")
    matrix.sweep()
    assert not any(path.exists() for path in own)
    assert all(path.exists() for path in others)


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
        Matrix(matrix.path, 10)


def test_text_and_numbers_come_back(group):
    names = np.array(["train/a.jpg", "test/Wald ü/b.tif", ""])
    matrices.create_vector(group, "sample_id", names, {})
    matrices.create_vector(group, "label", np.array([2, -1, 0], np.int32), {"class_names": ["x"]})
    assert matrices.read_vector(group, "sample_id", (3,)).tolist() == names.tolist()
    assert matrices.read_vector(group, "label", (3,)).dtype == np.int32
    assert matrices.read_vector(group, "label", (3,)).tolist() == [2, -1, 0]


def test_a_damaged_vector_is_a_clear_error(group):
    matrices.create_vector(group, "label", np.arange(100, dtype=np.int32), {})
    path = group / "label" / "c" / "0"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match="label is damaged"):
        matrices.read_vector(group, "label", (100,))


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


def edit(path, change):
    """Change the metadata of an array."""
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


def codecs(*own):
    return lambda m: m.update(codecs=[*own, *m["codecs"][len(own) :]])


def chunk_shape(*shape):
    return lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=shape)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda m: m.update(shape=[10**13, 5]), r"shape"),
        (lambda m: m.update(shape=[11, 5]), r"shape: \(11, 5\); its record says \(10, 5\)"),
        (lambda m: m.update(shape=[10]), r"shape: \(10,\)"),
        (lambda m: m.update(data_type="float16"), "data_type: float16; its record says float32"),
        (lambda m: m.update(data_type="complex128"), "data_type"),
        (lambda m: m.update(node_type="group"), "node_type"),
        (lambda m: m.update(zarr_format=2), "zarr_format"),
        (lambda m: m.update(more=1), "more: Extra inputs"),
        (chunk_shape(3, 4), r"chunk_shape: \(3, 4\) of an array of shape \(10, 5\)"),
        (chunk_shape(11, 5), "chunk_shape"),
        (chunk_shape(0, 5), "chunk_shape"),
        (lambda m: m["chunk_key_encoding"].update(name="v2"), "chunk_key_encoding.name"),
        (lambda m: m.update(storage_transformers=[{"name": "x"}]), "storage_transformers"),
        (codecs({"name": "numcodecs.pickle"}), "codecs.0: .*'numcodecs.pickle'"),
        (codecs({"name": "vlen-utf8"}), "codec vlen-utf8 is none of float32"),
        (codecs({"name": "bytes"}), "names no order of bytes"),
        (codecs({"name": "bytes", "configuration": {"endian": "big"}}), "codecs.0.*little"),
        (lambda m: m["codecs"].insert(1, {"name": "transpose"}), "codecs"),
        (lambda m: m["codecs"].pop(), "codecs.2"),
        (lambda m: m["codecs"][1]["configuration"].update(cname="lz4"), "cname"),
    ],
)
def test_metadata_that_featstore_does_not_write_are_named_before_zarr_reads_them(
    matrix, change, wrong, monkeypatch
):
    monkeypatch.setattr(zarr, "open_array", lambda *args, **more: pytest.fail("zarr"))
    edit(matrix.path, change)
    with pytest.raises(CorruptionError, match=wrong):
        Matrix(matrix.path, 10, 5, "float32")


def test_nested_metadata_are_refused(matrix):
    (matrix.path / "zarr.json").write_text("[" * 100_000)
    with pytest.raises(CorruptionError, match="not a readable Zarr array"):
        Matrix(matrix.path, 10)


def test_metadata_of_gigabytes_are_refused_before_they_are_read(matrix):
    os.truncate(matrix.path / "zarr.json", 5 * 10**9)
    with pytest.raises(CorruptionError, match=r"zarr\.json has 5\.0 GB; .* `featstore store rm`"):
        Matrix(matrix.path, 10)


def test_a_chunk_of_many_large_rows_is_refused(group):
    matrices.create_matrix(group, "fc", (10**6, 1000), {})
    assert Matrix(group / "fc", 10**6).chunk_rows == 1049
    edit(group / "fc", chunk_shape(20_000, 1000))
    with pytest.raises(CorruptionError, match="chunk_shape"):
        Matrix(group / "fc", 10**6)


def with_checksum(content):
    return content + google_crc32c.value(content).to_bytes(4, "little")


ROWS = np.arange(15, dtype=np.float32)


FIELDS = {"version": (0, 1), "flags": (2, 3), "nbytes": (4, 8), "blocksize": (8, 12)}
"""Bytes of Blosc's header."""


def packed(values, *, typesize=4, **header):
    """Return a chunk with a right checksum, and with other numbers in Blosc's header."""
    content = bytearray(numcodecs.Blosc("lz4", 5, typesize=typesize).encode(values))
    for name, value in header.items():
        start, stop = FIELDS[name]
        content[start:stop] = value.to_bytes(stop - start, "little")
    return with_checksum(bytes(content))


def test_a_chunk_that_unpacks_to_more_than_its_rows_is_never_unpacked(matrix, monkeypatch):
    fill(matrix)
    matrix.chunk_path(1).write_bytes(packed(ROWS, nbytes=2**31 - 17))
    monkeypatch.setattr(numcodecs.blosc, "decompress", None)
    with pytest.raises(CorruptionError, match=r"Chunk 1 .*states 2,147,483,631 bytes; expected 60"):
        matrix.read(3, 6)


def test_a_chunk_that_states_more_bytes_than_its_file_has_is_never_unpacked(matrix, monkeypatch):
    fill(matrix)
    content = bytearray(matrix.chunk_path(1).read_bytes()[:-4])
    content[12:16] = (10**6).to_bytes(4, "little")
    matrix.chunk_path(1).write_bytes(with_checksum(bytes(content)))
    monkeypatch.setattr(numcodecs.blosc, "decompress", None)
    with pytest.raises(CorruptionError, match=r"Chunk 1 .*states 1,000,004 bytes of its file"):
        matrix.read(3, 4)


@pytest.mark.parametrize(
    "chunk",
    [
        b"",
        with_checksum(b""),
        packed(ROWS)[:19],
        packed(ROWS)[:-1],
        packed(ROWS) + b"x",
        packed(ROWS[:10]),
        packed(np.repeat(ROWS, 2)),
        packed(ROWS, version=9),
        packed(ROWS, blocksize=0),
        packed(ROWS, blocksize=2**31),
        # Which of Blosc's compressors, or none, packed the values.
        *(packed(ROWS, flags=flags) for flags in (0x00, 0x40, 0x60, 0xE0)),
        ROWS.tobytes(),
        with_checksum(ROWS.tobytes()),
        with_checksum(bytes(16)),
        with_checksum(b"\xff" * 40),
    ],
    ids=lambda chunk: chunk[:16].hex() or "empty",
)
def test_no_chunk_that_does_not_hold_its_rows_is_read(matrix, chunk):
    fill(matrix)
    matrix.chunk_path(1).write_bytes(chunk)
    with pytest.raises(CorruptionError, match="Chunk 1 "):
        matrix.read(3, 6)


def test_a_chunk_s_file_of_terabytes_is_not_read_into_memory(matrix):
    fill(matrix)
    with matrix.chunk_path(1).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(CorruptionError, match="has 1,099,511,627,776 bytes; expected at most 80"):
        matrix.read(3, 6)


def test_a_chunk_that_is_a_folder_is_damage(matrix):
    fill(matrix)
    matrix.chunk_path(1).unlink()
    matrix.chunk_path(1).mkdir()
    with pytest.raises(CorruptionError, match=r"Chunk 1 .*can't be read"):
        matrix.read(3, 6)


@pytest.mark.parametrize("cname", ["lz4", "lz4hc", "zstd", "zlib", "blosclz"])
@pytest.mark.parametrize("shuffle", [0, 1, 2])
def test_chunks_of_other_zarr_writers_are_read(matrix, cname, shuffle):
    X = fill(matrix)
    for index, rows in enumerate((X[0:3], X[3:6], X[6:9], np.repeat(X[9:], 3, axis=0))):
        blosc = numcodecs.Blosc(cname, 9, shuffle=shuffle, blocksize=16)
        matrix.chunk_path(index).write_bytes(with_checksum(blosc.encode(rows.copy())))
    np.testing.assert_array_equal(matrix.read(0, 10), X)
    np.testing.assert_array_equal(zarr.open_array(matrix.path)[:], X)


def test_what_zarr_writes_over_rows_is_read_and_fill_that_it_leaves_out_is_damage(matrix):
    X = fill(matrix)
    array = zarr.open_array(matrix.path, mode="r+")
    array[:] = X + 1
    np.testing.assert_array_equal(Matrix(matrix.path, 10).read(0, 10), X + 1)
    array[3:6] = np.nan
    with pytest.raises(CorruptionError, match="Chunk 1 .*its file is missing"):
        matrix.read(0, 10)


def test_the_rows_after_the_last_are_filled_in_as_zarr_does(matrix):
    fill(matrix)
    last = numcodecs.Blosc().decode(matrix.chunk_path(3).read_bytes()[:-4])
    rows = np.frombuffer(last, "<f4").reshape(3, 5)
    assert rows[0].tolist() == [45, 46, 47, 48, 49]
    assert np.isnan(rows[1:]).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_of_the_other_order_of_bytes_are_stored_as_all_others(group, dtype):
    X = np.arange(50).reshape(10, 5)
    matrices.create_matrix(group, "fc", X.shape, {}, dtype)
    matrix = Matrix(group / "fc", 10)
    first = matrix.write_chunk(0, X.astype(dtype)).read_bytes()
    assert matrix.write_chunk(0, X.astype(np.dtype(dtype).newbyteorder(">"))).read_bytes() == first
    np.testing.assert_array_equal(matrix.read(0, 10), X)
    out = np.empty(X.shape, ">f4")
    matrix.read_chunk(0, out)
    np.testing.assert_array_equal(out, X)


def test_a_vector_without_a_chunk_is_not_read_as_fill(group):
    matrices.create_vector(group, "label", np.ones(100, np.int32), {})
    (group / "label" / "c" / "0").unlink()
    with pytest.raises(CorruptionError, match="label is damaged: its file is missing"):
        matrices.read_vector(group, "label", (100,))


def test_one_long_text_does_not_widen_the_others(group):
    names = ["a" * MAX_TEXT_NBYTES, *"b" * 9999]
    matrices.create_vector(group, "sample_id", np.array(names, matrices.TEXT), {})
    tracemalloc.start()
    found = matrices.read_vector(group, "sample_id", (10_000,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.tolist() == names
    assert peak < 10_000 * MAX_TEXT_NBYTES / 10


@pytest.mark.parametrize(("n_more", "wrong"), [(1, "4,096 characters"), (10**6, "header states")])
def test_a_text_that_is_too_long_is_refused(group, n_more, wrong):
    names = np.array(["a" * (MAX_TEXT_NBYTES + n_more), "b"], matrices.TEXT)
    matrices.create_vector(group, "sample_id", names, {})
    with pytest.raises(CorruptionError, match=wrong):
        matrices.read_vector(group, "sample_id", (2,))


def chunk_of_texts(n_stated, *texts):
    """Return a chunk that states a number of texts, and holds others.

    A text is a str, its bytes, or a length that is stated with other bytes.
    """
    content = n_stated.to_bytes(4, "little")
    for text in texts:
        own = text.encode() if isinstance(text, str) else text
        length, own = own if isinstance(own, tuple) else (len(own), own)
        content += length.to_bytes(4, "little") + own
    return with_checksum(numcodecs.Blosc("zstd", 1).encode(content))


HUGE = numcodecs.Blosc("zstd", 9).encode(bytes(2**27))


@pytest.mark.parametrize(
    ("chunk", "wrong"),
    [
        (chunk_of_texts(2**32 - 1, "a", "b"), "it has 4,294,967,295 texts; expected 2"),
        (chunk_of_texts(1, "a" * 9), "it has 1 texts; expected 2"),
        (chunk_of_texts(2, "a", "b")[:-6] + b"123456", "checksum"),
        (with_checksum(HUGE), "states 134,217,728 bytes; expected 12 to 8,204"),
        (with_checksum(HUGE[:4] + (20).to_bytes(4, "little") + HUGE[8:]), "bytes of content"),
        (chunk_of_texts(2, "a", "b" * 5000), "more than 4,096 characters"),
        (chunk_of_texts(2, b"a", (2**32 - 1, b"b")), "truncated"),
        (chunk_of_texts(2, b"a", (2**31, b"b")), "truncated"),
        (chunk_of_texts(2, b"a", b"\xff"), "can't decode"),
    ],
    ids=["many", "few", "checksum", "bomb", "packed", "long", "negative", "2 GB", "no UTF-8"],
)
def test_a_chunk_of_texts_that_would_fill_the_memory_is_damage(group, chunk, wrong):
    matrices.create_vector(group, "sample_id", np.array(["a", "b"], matrices.TEXT), {})
    (group / "sample_id" / "c" / "0").write_bytes(chunk)
    with pytest.raises(CorruptionError, match=f"sample_id is damaged.*{wrong}"):
        matrices.read_vector(group, "sample_id", (2,))


def test_the_texts_of_many_rows_unpack_to_a_bounded_size(group):
    names = np.array([f"{i}" for i in range(100_000)], matrices.TEXT)
    matrices.create_vector(group, "sample_id", names, {})
    metadata = read_metadata(group / "sample_id", (100_000,), "string")
    assert metadata.chunk_nbytes == (400_004, 2**26)
    (group / "sample_id" / "c" / "0").write_bytes(with_checksum(HUGE))
    with pytest.raises(CorruptionError, match="expected 400,004 to 67,108,864"):
        matrices.read_vector(group, "sample_id", (100_000,))


def test_new_arrays_are_zarr_3_whatever_zarr_is_set_to(group):
    with zarr.config.set(default_zarr_format=2):
        matrices.create_matrix(group, "fc", (10, 5), {})
        matrices.create_vector(group, "label", np.arange(10), {})
    assert Matrix(group / "fc", 10).n_features == 5
    assert matrices.read_vector(group, "label", (10,)).dtype == np.int32
