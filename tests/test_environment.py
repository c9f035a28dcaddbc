from __future__ import annotations

import hashlib
import os
import time

import pytest
from makers import Listener

from featstore import environment
from featstore.errors import DatasetError
from featstore.io import fingerprints, stamped_cache
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


def test_of_many_files_each_is_looked_at_once_and_only_changed_ones_are_read(tmp_path, monkeypatch):
    paths = [tmp_path / f"{i // 100}-{i:03d}" for i in range(600)]
    for path in paths:
        path.write_text(path.name)
    expected = [hashlib.sha256(path.name.encode()).hexdigest() for path in paths]
    time.sleep(2 * RECENT_S)
    listener = Listener()
    assert FingerprintCache(tmp_path / "cache").sha256(paths, listener) == expected
    assert [(one.total, one.n_done) for one in listener.phases] == [(600, 600)]
    looked, read = [], []
    stat, sha256 = stamped_cache.file_stamp, fingerprints.file_sha256
    monkeypatch.setattr(stamped_cache, "file_stamp", lambda p: looked.append(p) or stat(p))
    monkeypatch.setattr(fingerprints, "file_sha256", lambda p: read.append(p) or sha256(p))
    assert FingerprintCache(tmp_path / "cache").sha256(paths) == expected
    assert (len(looked), read) == (600, [])
    paths[300].write_text("changed")
    assert FingerprintCache(tmp_path / "cache").sha256(paths)[300] != expected[300]
    assert read == [paths[300]]


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
