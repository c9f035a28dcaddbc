"""Resumable, checked downloads, and safe unzipping."""

from __future__ import annotations

import json
import re
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pooch
import requests
from filelock import FileLock

from featstore.errors import DownloadError, SpaceError
from featstore.progress import SILENT, Progress
from featstore.text import nbytes_text

ATTEMPTS = 5


PAUSE_S = 1.0


TIMEOUT_S = (10.0, 60.0)
"""Longest waits for a connection, and for the next bytes."""


PIECE_NBYTES = 2**16
"""Bytes written at once; a broken connection loses less than that."""


# Pooch would write its own lines to stderr beside the progress.
pooch.get_logger().setLevel("ERROR")


def fetch(url: str, path: Path, known_hash: str | None = None, progress: Progress = SILENT) -> Path:
    """Download a file to `path`, unless it exists; return `path`.

    `known_hash` is ``md5:...`` or ``sha256:...`` in hex; without it, an existing file counts as
    right. A file ending in ``.part`` keeps the received bytes until they are complete and have the
    right checksum. A broken download resumes, now or by the next call, if the server allows it and
    its file is still the same.
    """
    return fetch_first([url], path, known_hash, progress)


def fetch_first(
    urls: Sequence[str], path: Path, known_hash: str | None = None, progress: Progress = SILENT
) -> Path:
    """Download a file from the first of several URLs that works; see :func:`fetch`."""
    failures = []
    for url in urls:
        try:
            _fetch(url, path, known_hash, progress)
            return path
        except DownloadError as error:
            failures.append(str(error))
    raise DownloadError(
        f"{' '.join(failures)} To do it by hand, fetch {urls[0]} elsewhere and put it at {path}."
    )


def _fetch(url: str, path: Path, known_hash: str | None, progress: Progress) -> None:
    part = path.with_name(f"{path.name}.part")
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            downloader = _Resuming(part, progress)
            pooch.retrieve(url, known_hash, path.name, path.parent, downloader=downloader)
            # A process that waits for the lock finds the file.
            lock.unlink(missing_ok=True)
    except requests.RequestException as error:
        kept = part.stat().st_size if part.is_file() else 0
        tail = f" The first {kept:,} bytes are kept; try again to continue." if kept else ""
        raise DownloadError(f"{url} can't be fetched: {_cause(error)}.{tail}") from None
    except OSError as error:
        raise DownloadError(f"{path} can't be written: {error.strerror or error}.") from None
    except ValueError as error:
        # What pooch raises at a wrong checksum.
        found = re.search(r"Expected: (\w+) Observed: (\w+)", str(error).replace("\n", " "))
        fault = f"its checksum is {found[2]}, not {known_hash}" if found else str(error)
        raise DownloadError(
            f"{url} is not the file that was expected: {fault}. It was not kept."
        ) from None


@dataclass
class _Resuming:
    """A pooch downloader that keeps the received bytes in a file, and requests only the rest."""

    part: Path
    progress: Progress

    def __call__(self, url: str, output_file: str, _pooch: Any) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            before = self._n_bytes()
            try:
                self._attempt(url)
                break
            except requests.RequestException as error:
                is_refusal = error.response is not None and error.response.status_code < 500
                is_stuck = attempt > 1 and self._n_bytes() <= before
                if is_refusal or is_stuck or attempt == ATTEMPTS:
                    raise
                time.sleep(PAUSE_S)
        self.part.replace(output_file)
        self._note.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        """The file that names the URL and the version of the part."""
        return self.part.with_name(f"{self.part.name}.json")

    def _n_bytes(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _attempt(self, url: str) -> None:
        headers = {"Accept-Encoding": "identity"}
        have, note = self._n_bytes(), self._read_note(url)
        if have and note:
            headers |= {"Range": f"bytes={have}-", "If-Range": note["version"]}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                # The part is as long as the file or longer, so it belongs to another version.
                self.part.unlink()
                raise requests.ConnectionError("the server's file has changed")
            response.raise_for_status()
            span = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if response.status_code == requests.codes.partial_content:
                if span is None or int(span[1]) != have:
                    self.part.unlink()
                    raise requests.ConnectionError("the server did not send the requested range")
                if _version(response) not in ("", note and note["version"]):
                    # Some servers ignore If-Range.
                    self.part.unlink()
                    raise requests.ConnectionError("the server's file has changed")
                total = int(span[2])
            else:
                have = 0
                total = int(response.headers.get("Content-Length", 0))
                # Before the note, which would otherwise give old bytes the new version.
                self.part.unlink(missing_ok=True)
                self._write_note(url, response)
            self._receive(response, have, total)

    def _receive(self, response: requests.Response, have: int, total: int) -> None:
        name = self.part.name.removesuffix(".part")
        what = f"downloading the rest of {name}" if have else f"downloading {name}"
        self.progress.start(what, total - have, "bytes")
        try:
            with self.part.open("ab" if have else "wb") as file:
                for piece in response.iter_content(PIECE_NBYTES):
                    file.write(piece)
                    self.progress.advance(len(piece))
        finally:
            self.progress.stop()
        if total and self._n_bytes() != total:
            raise requests.ConnectionError(f"{self._n_bytes():,} of {total:,} bytes came")

    def _read_note(self, url: str) -> dict[str, str] | None:
        try:
            note: dict[str, str] = json.loads(self._note.read_text())
        except (OSError, ValueError, RecursionError):
            return None
        return note if note.get("url") == url and note.get("version") else None

    def _write_note(self, url: str, response: requests.Response) -> None:
        self._note.write_text(json.dumps({"url": url, "version": _version(response)}))


def _version(response: requests.Response) -> str:
    """Return the version for If-Range: a strong ETag or a date.

    Without either, the next attempt starts again, because the rest could be of another version.
    """
    etag = response.headers.get("ETag", "")
    is_strong = etag and not etag.startswith("W/")
    return str(etag if is_strong else response.headers.get("Last-Modified", ""))


def _cause(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    # The innermost error is the plainest, such as "Name or service not known".
    innermost: BaseException = error
    while innermost.__context__ is not None:
        innermost = innermost.__context__
    return str(getattr(innermost, "strerror", None) or innermost).rstrip(".")


def unzip(archive: Path, folder: Path) -> Path:
    """Unpack a ZIP file into a new folder, and return the folder.

    An archive with a link, or with a name that leads out of the folder, is refused.
    """
    try:
        folder.mkdir()
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                _check_member(member, archive)
            nbytes = sum(member.file_size for member in packed.infolist())
            if nbytes > (free := shutil.disk_usage(folder).free):
                raise SpaceError(
                    f"Unpacking {archive} takes {nbytes_text(nbytes)}; {nbytes_text(free)} are "
                    f"free in {folder.parent}."
                )
            packed.extractall(folder)
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        EOFError,
        ValueError,
        RuntimeError,
    ) as error:
        raise DownloadError(f"{archive} can't be unpacked: {error}. Fetch it again.") from None
    except (SpaceError, DownloadError):
        raise
    except OSError as error:
        raise DownloadError(
            f"{archive} can't be unpacked into {folder}: {error.strerror or error}."
        ) from None
    return folder


def _check_member(member: zipfile.ZipInfo, archive: Path) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    has_drive = ":" in "".join(path.parts[:1])
    if not member.filename or path.is_absolute() or ".." in path.parts or has_drive or is_link:
        raise DownloadError(
            f"{archive}: its member {member.filename!r} leads out of the folder; it is not the "
            "archive that it should be and was not unpacked."
        )
