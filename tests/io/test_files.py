from __future__ import annotations

import hashlib
import json
import os

import pytest

from featstore.errors import CorruptionError, StoreError
from featstore.io.files import atomic_write, file_sha256, read_json, resolve_link, write_json


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_json_comes_back(tmp_path):
    value = {"name": "Wälder", "n": [1, 2.5, None]}
    write_json(tmp_path / "deep" / "a.json", value)
    assert read_json(tmp_path / "deep" / "a.json") == value


def test_an_edited_json_file_is_not_believed(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"rows": 10})
    edited = json.loads(path.read_text()) | {"rows": 11}
    path.write_text(json.dumps(edited))
    with pytest.raises(CorruptionError, match="not as it was written"):
        read_json(path)


DEEP = pytest.param(b'{"a":' * 10**5, id="deep")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"{}", b"\xff\xfe", b'"x"', DEEP])
def test_anything_else_is_not_believed_either(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(CorruptionError):
        read_json(path)


def test_a_record_of_gigabytes_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"rows": 10})
    os.truncate(path, 5 * 10**9)
    with pytest.raises(
        CorruptionError, match=r"a\.json has 5\.0 GB; .* at most 1\.1 GB\. Put back"
    ):
        read_json(path)


def test_a_missing_file_is_an_error_of_the_store(tmp_path):
    with pytest.raises(StoreError, match="can't be read"):
        read_json(tmp_path / "none.json")


def test_hash_is_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc" * 10**6)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(b"abc" * 10**6).hexdigest()


def test_names_of_letters_of_several_bytes_are_not_too_long(tmp_path):
    path = tmp_path / ("林" * 80 + ".npz")
    with atomic_write(path) as temporary:
        assert len(temporary.name.encode()) < 120
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_a_link_to_a_file_is_written_through_and_no_other(tmp_path):
    (tmp_path / "file").write_text("old")
    for name, target in (
        ("link", "file"),
        ("new", "none"),
        ("device", "/dev/null"),
        ("loop", "loop"),
    ):
        (tmp_path / name).symlink_to(target)
    for name in ("link", "new", "file"):
        with atomic_write(resolve_link(tmp_path / name)) as temporary:
            temporary.write_text(name)
        assert (tmp_path / name).is_symlink() == (name != "file")
        assert (tmp_path / name).read_text() == name
    assert (tmp_path / "none").read_text() == "new"
    for name in ("device", "loop"):
        with atomic_write(resolve_link(tmp_path / name)) as temporary:
            temporary.write_text(name)
        assert not (tmp_path / name).is_symlink()
