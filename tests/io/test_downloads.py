"""Downloads from a server on the loopback interface that behaves, or doesn't."""

from __future__ import annotations

import hashlib
import io
import re
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from featstore.datasets.formats import archives, named, ucmerced
from featstore.datasets.formats.ucmerced import CLASSES
from featstore.errors import DatasetError, DownloadError, SpaceError
from featstore.io import downloads
from featstore.io.downloads import PIECE_NBYTES, fetch, fetch_first, unzip

CONTENT = np.random.default_rng(0).bytes(1_000_000)
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server:
    """What is served at every path, and what was asked."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag: str | None = '"v1"'
        self.last_modified: str | None = None
        self.has_ranges = True
        self.heeds_conditions = True
        self.breaks_after: list[int] = []
        self.statuses: list[int] = []
        self.asked: list[str | None] = []
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        span = request.headers.get("Range")
        self.asked.append(span)
        if self.statuses:
            request.send_error(self.statuses.pop(0))
            return
        validator = self.etag or self.last_modified
        start = 0
        is_same = request.headers.get("If-Range") == validator or not self.heeds_conditions
        if span and self.has_ranges and is_same:
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1])
        body = self.content[start:]
        request.send_response(206 if start else 200)
        if start:
            total = len(self.content)
            request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        request.send_header("Content-Length", str(len(body)))
        if self.etag:
            request.send_header("ETag", self.etag)
        if self.last_modified:
            request.send_header("Last-Modified", self.last_modified)
        request.end_headers()
        request.wfile.write(body[: self.breaks_after.pop(0)] if self.breaks_after else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.01)
    monkeypatch.setenv("NO_PROXY", "*")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)
            self.close_connection = True

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_port}/file.bin"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


class Heard:
    """A progress that keeps what it hears."""

    def __init__(self) -> None:
        self.phases: list[list[int]] = []

    def start(self, what: str, total: int, unit: str) -> None:
        rest = "the rest of " if self.phases else ""
        assert (what, unit) == (f"downloading {rest}file.bin", "bytes")
        self.phases.append([total, 0])

    def advance(self, n: int) -> None:
        self.phases[-1][1] += n

    def stop(self) -> None: ...

    def say(self, line: str) -> None: ...


@pytest.mark.parametrize("known_hash", [MD5, SHA256, None])
def test_a_file_arrives_whole_with_nothing_beside_it(
    server: Server, tmp_path: Path, known_hash: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    path, heard = tmp_path / "new" / "file.bin", Heard()
    assert fetch(server.url, path, known_hash, heard) == path
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]
    assert heard.phases == [[len(CONTENT), len(CONTENT)]]
    assert stat.S_IMODE(path.stat().st_mode) & 0o044
    fetch(server.url, path, known_hash)
    assert len(server.asked) == 1
    assert capfd.readouterr() == ("", "")


def test_a_broken_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [5 * PIECE_NBYTES, 6 * PIECE_NBYTES]
    path, heard = tmp_path / "file.bin", Heard()
    fetch(server.url, path, MD5, heard)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={5 * PIECE_NBYTES}-", f"bytes={11 * PIECE_NBYTES}-"]
    assert heard.phases == [
        [1_000_000, 5 * PIECE_NBYTES],
        [1_000_000 - 5 * PIECE_NBYTES, 6 * PIECE_NBYTES],
        [1_000_000 - 11 * PIECE_NBYTES, 1_000_000 - 11 * PIECE_NBYTES],
    ]


def test_the_next_call_goes_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    server.breaks_after = [9 * PIECE_NBYTES]
    path = tmp_path / "file.bin"
    expected = f"connection broke off. The first {9 * PIECE_NBYTES:,} bytes are kept; try again"
    with pytest.raises(DownloadError, match=expected):
        fetch(server.url, path, MD5)
    assert not path.exists()
    fetch(server.url, path, MD5)
    assert server.asked == [None, f"bytes={9 * PIECE_NBYTES}-"]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["etag", "date"])
def test_a_file_that_changed_meanwhile_is_fetched_anew(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    if change == "date":
        server.etag, server.last_modified = None, "Mon, 01 Jan 2024 00:00:00 GMT"
    server.breaks_after = [600_000]
    path = tmp_path / "file.bin"
    with pytest.raises(DownloadError):
        fetch(server.url, path)
    server.content = CONTENT[::-1]
    if change == "etag":
        server.etag = '"v2"'
    else:
        server.last_modified = "Tue, 02 Jan 2024 00:00:00 GMT"
    fetch(server.url, path)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_kill_before_the_first_byte_of_another_version_mixes_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As if the process had ended here."""

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    server.breaks_after = [600_000]
    path = tmp_path / "file.bin"
    with pytest.raises(DownloadError):
        fetch(server.url, path)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    with monkeypatch.context() as patch:
        patch.setattr(downloads._Resuming, "_receive", killed)
        with pytest.raises(Killed):
            fetch(server.url, path)
    fetch(server.url, path)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_server_that_heeds_no_condition_mixes_nothing(server: Server, tmp_path: Path) -> None:
    server.heeds_conditions = False
    server.breaks_after = [600_000]
    answer = server.answer

    def changed(request: BaseHTTPRequestHandler) -> None:
        answer(request)
        server.content, server.etag = CONTENT[::-1], '"v2"'

    server.answer = changed  # type: ignore[method-assign]
    path = tmp_path / "file.bin"
    with pytest.raises(DownloadError, match="file has changed"):
        fetch(server.url, path)
    fetch(server.url, path)
    assert path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_sure_sign_of_the_version_nothing_is_continued(
    server: Server, tmp_path: Path, etag: str | None
) -> None:
    server.etag, server.breaks_after = etag, [600_000]
    fetch(server.url, tmp_path / "file.bin", MD5)
    assert server.asked == [None, None]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.has_ranges, server.breaks_after = False, [9 * PIECE_NBYTES]
    fetch(server.url, tmp_path / "file.bin", MD5)
    assert server.asked == [None, f"bytes={9 * PIECE_NBYTES}-"]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_given_up(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    part = tmp_path / "file.bin.part"
    part.write_bytes(CONTENT + b"more")
    (tmp_path / "file.bin.part.json").write_text(
        f'{{"url": "{server.url}", "version": "\\"v1\\""}}'
    )
    server.statuses = [416]
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT


def test_a_rubbish_note_is_no_hindrance(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"rubbish")
    (tmp_path / "file.bin.part.json").write_text("{")
    fetch(server.url, tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_nothing(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    found = hashlib.md5(server.content).hexdigest()
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, tmp_path / "file.bin", MD5)
    message = str(caught.value)
    assert server.url in message
    assert found in message
    assert MD5 in message
    assert str(tmp_path / "file.bin") in message
    assert {entry.name for entry in tmp_path.iterdir()} <= {"file.bin.lock"}


def test_an_existing_file_with_another_checksum_is_replaced(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT


def test_a_refusal_is_told_at_once(server: Server, tmp_path: Path) -> None:
    server.statuses = [404, 404]
    with pytest.raises(DownloadError, match="the server answers 404 Not Found") as caught:
        fetch(server.url, tmp_path / "file.bin", MD5)
    assert f"fetch {server.url} elsewhere and put it at {tmp_path / 'file.bin'}" in str(
        caught.value
    )
    assert len(server.asked) == 1


def test_a_tired_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503]
    fetch(server.url, tmp_path / "file.bin", MD5)
    assert len(server.asked) == 2


def test_a_server_that_sends_nothing_more_is_given_up(server: Server, tmp_path: Path) -> None:
    server.statuses = [503] * 50
    with pytest.raises(DownloadError, match="503"):
        fetch(server.url, tmp_path / "file.bin", MD5)
    assert len(server.asked) == 2


def test_nobody_there(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="Connection refused"):
        fetch("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", MD5)


def test_a_place_that_cant_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DownloadError, match="can't be written"):
        fetch(server.url, tmp_path / "file" / "file.bin", MD5)


def test_the_second_place_is_tried(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    fetch_first([server.url + "x", server.url], tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    (tmp_path / "file.bin").unlink()
    server.statuses = [404, 403]
    with pytest.raises(DownloadError, match=r"404 Not Found.*403 Forbidden.*To do it by hand"):
        fetch_first([server.url + "x", server.url], tmp_path / "file.bin", MD5)


def test_two_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=fetch, args=(server.url, tmp_path / "file.bin", MD5))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


# Archives


def zipped(members: dict[str, bytes], link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc")
    return buffer.getvalue()


def test_unzip_unpacks(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"x/y.txt": b"1", "z.txt": b"2"}))
    assert unzip(tmp_path / "a.zip", tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out" / "x" / "y.txt").read_bytes() == b"1"


@pytest.mark.parametrize("name", ["./", ".", "a/./"])
def test_unzip_of_a_member_that_is_the_folder_itself(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({name: b"", "a/x.txt": b"1"}))
    if name == ".":
        with pytest.raises(DownloadError, match=r"a\.zip can't be unpacked"):
            unzip(tmp_path / "a.zip", tmp_path / "out")
        return
    unzip(tmp_path / "a.zip", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").rglob("*.*")] == ["x.txt"]


def test_unzip_of_a_member_without_a_name(tmp_path: Path) -> None:
    content = zipped({"x": b"1"})
    # The name's length, in the header of the file and in that of the archive.
    for header, at in ((b"PK\3\4", 26), (b"PK\1\2", 28)):
        start = content.index(header) + at
        content = content[:start] + b"\0\0" + content[start + 2 :]
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DownloadError):
        unzip(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:/evil", "a\\..\\..\\evil"])
def test_unzip_lets_nothing_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"fine.txt": b"1", name: b"2"}))
    with pytest.raises(DownloadError, match="leads out of the folder"):
        unzip(tmp_path / "a.zip", tmp_path / "out")
    assert list(tmp_path.rglob("*.txt")) == []
    assert list(tmp_path.rglob("evil")) == []


def test_unzip_makes_no_links(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({}, link="link"))
    with pytest.raises(DownloadError, match="leads out"):
        unzip(tmp_path / "a.zip", tmp_path / "out")


def test_unzip_of_a_damaged_archive(tmp_path: Path) -> None:
    whole = zipped({"a": CONTENT})
    for broken in (whole[:-100], whole[:5000] + b"\0" * 100 + whole[5100:], b""):
        (tmp_path / "a.zip").write_bytes(broken)
        with pytest.raises(DownloadError, match=r"a\.zip can't be unpacked"):
            unzip(tmp_path / "a.zip", tmp_path / f"out{len(broken)}")


def test_unzip_foresees_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"a": CONTENT}))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SpaceError, match="Unpacking"):
        unzip(tmp_path / "a.zip", tmp_path / "out")


# UC Merced


def serve_zip(server: Server, members: dict[str, bytes]) -> str:
    server.content = zipped(members)
    return "md5:" + hashlib.md5(server.content).hexdigest()


def get_ucmerced(root: Path, url: str, known_hash: str = "") -> Path:
    served = replace(ucmerced.ARCHIVE, urls=[url], known_hash=known_hash)
    return archives.download(root, ucmerced.FOLDER, served)


def test_ucmerced_is_fetched_and_unpacked_once(server: Server, tmp_path: Path) -> None:
    known_hash = serve_zip(
        server, {f"UCMerced_LandUse/Images/{c}/{c}00.tif": b"tiff" for c in CLASSES}
    )
    server.breaks_after = [100]
    root = tmp_path / "data"
    images = get_ucmerced(root, server.url, known_hash)
    assert images == root / "UCMerced_LandUse" / "Images"
    assert sorted(entry.name for entry in images.iterdir()) == list(CLASSES)
    assert [entry.name for entry in root.iterdir()] == ["UCMerced_LandUse"]
    n_asked = len(server.asked)
    get_ucmerced(root, server.url, known_hash)
    assert len(server.asked) == n_asked


def test_an_archive_that_was_put_there_by_hand_stays(tmp_path: Path) -> None:
    content = zipped({"UCMerced_LandUse/Images/river/river00.tif": b"tiff"})
    archive = tmp_path / "UCMerced_LandUse.zip"
    archive.write_bytes(content)
    known_hash = "md5:" + hashlib.md5(content).hexdigest()
    assert (get_ucmerced(tmp_path, "http://127.0.0.1:1", known_hash) / "river").is_dir()
    assert archive.read_bytes() == content


def test_ucmerced_of_strange_content(server: Server, tmp_path: Path) -> None:
    known_hash = serve_zip(server, {"other/readme.txt": b""})
    with pytest.raises(DatasetError, match="holds no folder UCMerced_LandUse/Images"):
        get_ucmerced(tmp_path, server.url, known_hash)
    assert not (tmp_path / "UCMerced_LandUse").exists()


def test_ucmerced_leaves_what_is_in_the_way(server: Server, tmp_path: Path) -> None:
    (tmp_path / "UCMerced_LandUse").mkdir()
    with pytest.raises(DatasetError, match="has no folder Images; move it away"):
        get_ucmerced(tmp_path, server.url)
    assert server.asked == []


def test_a_named_dataset_is_fetched_into_a_folder_of_its_name(
    server: Server, tmp_path: Path
) -> None:
    eurosat = named.DATASETS[1]
    assert eurosat.name == "eurosat-ms"
    assert eurosat.archive is not None
    members = {f"{eurosat.archive.images}/{c}/{c}_1.tif": b"tiff" for c in eurosat.classes}
    known_hash = serve_zip(server, members)
    served = replace(eurosat.archive, urls=[server.url], known_hash=known_hash)
    images = replace(eurosat, archive=served).download(tmp_path)
    assert images == tmp_path / "eurosat-ms" / eurosat.archive.images
    assert [entry.name for entry in tmp_path.iterdir()] == ["eurosat-ms"]
    assert named.formats()["eurosat-ms"].find(tmp_path) == images / "AnnualCrop"
