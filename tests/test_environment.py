from __future__ import annotations

import hashlib
import os
import time

import pytest

from featstore import environment
from featstore.errors import DatasetError
from featstore.io import fingerprints
from featstore.io.fingerprints import FingerprintCache, dataset_fingerprint
from featstore.io.stamped_cache import RECENT_S


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_bytes(name.encode() * 10)
    return [(name, folder / name) for name in "ab"]


def test_hashes_are_those_of_the_content(files, tmp_path):
    found = FingerprintCache(tmp_path / "cache").sha256([path for _, path in files])
    assert found == [hashlib.sha256(c * 10).hexdigest() for c in (b"a", b"b")]


def test_unchanged_files_are_not_read_again(files, tmp_path, monkeypatch):
    cache = FingerprintCache(tmp_path / "cache")
    time.sleep(2 * RECENT_S)
    first = dataset_fingerprint({}, files, cache)
    monkeypatch.setattr(fingerprints, "file_sha256", lambda _: pytest.fail("read again"))
    assert dataset_fingerprint({}, files, FingerprintCache(tmp_path / "cache")) == first


def test_a_change_of_same_size_is_noticed(files, tmp_path):
    cache = FingerprintCache(tmp_path / "cache")
    first = dataset_fingerprint({}, files, cache)
    path = files[0][1]
    before = path.stat()
    path.write_bytes(b"c" * 10)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert dataset_fingerprint({}, files, cache) != first


def test_names_and_identity_count(files, tmp_path):
    cache = FingerprintCache(tmp_path / "cache")
    first = dataset_fingerprint({"seed": 0}, files, cache)
    renamed = [("z", files[0][1]), files[1]]
    assert dataset_fingerprint({"seed": 0}, renamed, cache) != first
    assert dataset_fingerprint({"seed": 1}, files, cache) != first


def test_a_dataset_may_be_moved(files, tmp_path):
    cache = FingerprintCache(tmp_path / "cache")
    first = dataset_fingerprint({}, files, cache)
    moved = [(name, path.rename(tmp_path / name)) for name, path in files]
    assert dataset_fingerprint({}, moved, cache) == first


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 3}'])
def test_a_broken_cache_only_costs_time(files, tmp_path, content):
    cache = FingerprintCache(tmp_path / "cache")
    first = dataset_fingerprint({}, files, cache)
    for place in (tmp_path / "cache").iterdir():
        place.write_text(content)
    assert dataset_fingerprint({}, files, cache) == first


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.tif"):
        FingerprintCache(tmp_path).sha256([tmp_path / "gone.tif"])


def test_versions_and_machine_are_known():
    assert environment.versions()["zarr"][0].isdigit()
    assert environment.machine()["n_cores"] >= 1
