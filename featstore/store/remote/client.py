"""Remotes: object storage by its URL, the one file that knows obstore's API.

Objects are there whole or not at all. What a service answers becomes a value, or one error that
says what to do.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from featstore.errors import StoreError
from featstore.text import RESUME_HINT

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")


R = TypeVar("R")


N_AT_A_TIME = 16
"""Requests in flight. A request waits for the network far longer than it computes."""


RETRIES = 5
"""How often a request is tried again that the network or a busy service failed."""


RETRY_S = 60.0


WHOLE_NBYTES = 16 * 2**20
"""Size up to which a file is sent in one request; larger ones go in parts."""


BEHIND_DOTS = "0"
"""Sorts behind "." and "..", and before all but odd names; no object has this one."""


@dataclass(frozen=True)
class Entry:
    """What a listing says of an object.

    Parameters
    ----------
    nbytes : int
    etag : str or None
        Changes whenever the object does.
    """

    nbytes: int
    etag: str | None


SERVICE = re.compile(
    r"AWS_ENDPOINT(_URL)?(_S3)?|AZURE_(STORAGE_)?(ACCOUNT_NAME|ENDPOINT|USE_EMULATOR)"
    r"|GOOGLE_BASE_URL"
)
"""Variables of the environment that say where a bucket of a URL's name is."""


def service_of(url: str) -> dict[str, str]:
    """Return what of the environment decides which bucket a URL names; it may hold secrets."""
    family = {"s": "AWS", "g": "GOOGLE", "a": "AZURE"}.get(url[:1].lower(), "-")
    return {
        name: value.rstrip("/")
        for name, value in sorted(os.environ.items())
        if value and name.startswith(family) and SERVICE.fullmatch(name)
    }


def is_url(text: str) -> bool:
    """Return whether a store's name is a URL and no folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


class ObjectStorage:
    """A prefix of a bucket, whose objects go by their names below it. See :func:`open_storage`.

    Parameters
    ----------
    url : str
    store : ObjectStore
        obstore's.
    """

    def __init__(self, url: str, store: ObjectStore) -> None:
        self.url = url
        self.is_conditional = True
        """Whether the service has conditional writes, as far as is known; see :meth:`create`."""
        self.is_proven = False
        """Whether it was seen to refuse to create what is there."""
        self.foreign: set[str] = set()
        """Objects that listings passed over, for obstore takes no such name."""
        self._store = store
        import obstore
        from obstore import exceptions as errors

        self._obs = obstore
        self._absent = (errors.NotFoundError, FileNotFoundError)
        self._taken = (errors.AlreadyExistsError, errors.PreconditionError)
        self._misnamed = errors.InvalidPathError
        self._unable = (errors.NotSupportedError, NotImplementedError)
        self._failures = (errors.BaseError, OSError, NotImplementedError, ValueError)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except self._failures as error:
            raise StoreError(explain(self.url, str(error))) from error

    def get(self, name: str) -> bytes | None:
        """Return an object's bytes; None when it is not there."""
        found = self.read(name)
        return None if found is None else found[0]

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and their etag; None when it is not there."""
        with self._explained():
            try:
                found = self._obs.get(self._store, name)
                return bytes(found.bytes()), str(found.meta["e_tag"] or "")
            except self._absent as error:
                self._check_bucket(error)
                return None

    def sha256(self, name: str, copy: Path | None = None) -> str | None:
        """Return the sha256 (hex) of an object's bytes; None when it is not there.

        Parameters
        ----------
        name : str
        copy : Path, optional
            File that the bytes are written to on the way.
        """
        digest = hashlib.sha256()
        with self._explained():
            try:
                stream = self._obs.get(self._store, name).stream(min_chunk_size=2**20)
            except self._absent as error:
                self._check_bucket(error)
                return None
            if copy is None:
                for part in stream:
                    digest.update(part)
                return digest.hexdigest()
        with self._explained(), copy.open("wb") as file:
            for part in stream:
                digest.update(part)
                file.write(part)
        return digest.hexdigest()

    def put(self, name: str, data: bytes | Path) -> str | None:
        """Write an object, in place of one that is there; return its etag."""
        return self._put(name, data, "overwrite")

    def create(self, name: str, data: bytes) -> str | None:
        """Write an object unless there is one; return its etag, None when there is one.

        A service that has no conditional writes is asked before, which leaves others a moment to
        come in between, and :attr:`is_conditional` says so from then on.
        """
        if self.is_conditional:
            try:
                return self._put(name, data, "create") or ""
            except _TakenError:
                return self._etag_of(name, data)
            except _UnableError:
                self.is_conditional = False
        if self.get(name) is not None:
            return None
        return self.put(name, data) or ""

    def replace(self, name: str, data: bytes, etag: str) -> str | None:
        """Write an object in place of the one that had `etag`; None when that is gone."""
        if self.is_conditional:
            try:
                return self._put(name, data, {"e_tag": etag}) or ""
            except _TakenError:
                return self._etag_of(name, data)
            except _UnableError:
                # Local disks create conditionally and can't replace so.
                pass
        found = self.entry(name)
        if found is None or found.etag != etag:
            return None
        return self.put(name, data) or ""

    def _etag_of(self, name: str, data: bytes) -> str | None:
        """Return the etag of an object that has just these bytes; None if it has others.

        A request whose answer was lost is sent again, and then meets what it wrote itself.
        """
        found = self.read(name)
        return found[1] if found is not None and found[0] == data else None

    def _put(self, name: str, data: bytes | Path, mode: Any) -> str | None:
        parts = isinstance(data, Path) and data.stat().st_size > WHOLE_NBYTES
        with self._explained():
            try:
                done = self._obs.put(self._store, name, data, mode=mode, use_multipart=parts)
            except self._taken:
                raise _TakenError from None
            except self._unable:
                raise _UnableError from None
            except self._absent as error:
                self._check_bucket(error)
                # Of an object that was to be replaced.
                raise _TakenError from None
            except self._failures as error:
                if mode != "overwrite" and _lacks_conditions(str(error)):
                    raise _UnableError from None
                raise
        etag: str | None = done["e_tag"]
        return etag

    def entry(self, name: str) -> Entry | None:
        """Return what is known of an object; None when it is not there."""
        with self._explained():
            try:
                found = self._obs.head(self._store, name)
            except self._absent:
                return None
        return Entry(found["size"], found["e_tag"])

    def entries(self, prefix: str, after: str | None = None) -> dict[str, Entry]:
        """Return all objects below a prefix, by name; foreign ones are passed over.

        Parameters
        ----------
        prefix : str
            Ends in a slash.
        after : str, optional
            Objects whose names don't come after this are left out.
        """
        with self._explained():
            try:
                return self._list(prefix, after)
            except self._misnamed as error:
                self.foreign.add(_misnamed(str(error)))
            # A page in which there is such a name is no page: what sorts behind it is asked for.
            behind = f"{prefix}{BEHIND_DOTS}"
            try:
                return self._list(prefix, max(behind, after or ""))
            except self._misnamed as error:
                self.foreign.add(_misnamed(str(error)))
            # It lies deeper.
            files, folders = self._level(prefix)
            found = {name: entry for name, entry in files.items() if name > (after or "")}
            for folder in folders:
                found |= self.entries(f"{prefix}{folder}/", after)
            return found

    def folders(self, prefix: str) -> list[str]:
        """Return the names that stand between a prefix and the next slash."""
        with self._explained():
            try:
                return self._level(prefix)[1]
            except self._misnamed as error:
                self.foreign.add(_misnamed(str(error)))
            names = self.entries(prefix, f"{prefix}{BEHIND_DOTS}")
        below = [name.removeprefix(prefix).split("/") for name in names]
        return sorted({parts[0] for parts in below if len(parts) > 1})

    def _list(self, prefix: str, after: str | None) -> dict[str, Entry]:
        try:
            pages = list(self._obs.list(self._store, prefix, offset=after))
        except self._absent as error:
            self._check_bucket(error)
            return {}
        return {m["path"]: Entry(m["size"], m["e_tag"]) for page in pages for m in page}

    def _level(self, prefix: str) -> tuple[dict[str, Entry], list[str]]:
        """Return the objects between a prefix and the next slash, and the folders."""
        try:
            found = self._obs.list_with_delimiter(self._store, prefix)
        except self._absent as error:
            self._check_bucket(error)
            return {}, []
        files = {m["path"]: Entry(m["size"], m["e_tag"]) for m in found["objects"]}
        paths = found["common_prefixes"]
        return files, sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that are not there are deleted already."""
        with self._explained():
            try:
                if names:
                    self._obs.delete(self._store, list(names))
            except self._absent:
                # Local disks stop at the first one that is not there.
                for name in names:
                    self._delete_one(name)

    def _delete_one(self, name: str) -> None:
        try:
            self._obs.delete(self._store, name)
        except self._absent:
            return

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield what a function of the network gives for each item, several at a time, in order."""
        pool = ThreadPoolExecutor(N_AT_A_TIME)
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)

    def _check_bucket(self, error: BaseException) -> None:
        if _names_bucket(str(error)):
            raise StoreError(explain(self.url, str(error))) from error


class _TakenError(StoreError):
    """There is an object already, or not the one that was to be replaced."""


class _UnableError(StoreError):
    """The service has no conditional writes."""


def _misnamed(text: str) -> str:
    """Return the name that obstore does not take."""
    found = re.search(r'Path "((?:[^"\\]|\\.)*)"', text)
    return found[1] if found else text


def _lacks_conditions(text: str) -> bool:
    return "501 Not Implemented" in text or "NotImplemented" in text


def _names_bucket(text: str) -> bool:
    return any(word in text for word in ("NoSuchBucket", "ContainerNotFound", "bucket does not"))


def explain(url: str, text: str) -> str:
    """Return for people what an error of obstore's means, and the cure."""
    if _names_bucket(text):
        return f"{url}: there is no such bucket. Create it, or name another --store."
    if any(word in text for word in ("InstanceCredentials", "169.254.169.254", "metadata.google")):
        return (
            f"{url}: no credentials were found. Put them into the environment, for S3 as "
            f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. {RESUME_HINT}"
        )
    if any(word in text for word in ("403 Forbidden", "401 Unauthorized", "AccessDenied")):
        return (
            f"{url}: the service denies access. Check the credentials in the environment (for S3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), and that they may list, read, write and "
            f"delete there. {RESUME_HINT}"
        )
    if "object with invalid path" in text:
        return (
            f"{url}: the object {_misnamed(text)!r} there can't be passed over. featstore did not "
            "write it. Remove it with the service's own tools."
        )
    if "builder error" in text:
        return (
            f"{url}: the service's endpoint is not encrypted. To use it nevertheless, set "
            "AWS_ALLOW_HTTP=true."
        )
    if any(word in text for word in ("HTTP error", "timed out", "error sending request")):
        return (
            f"{url}: the service does not answer. Check the network and, for S3, AWS_ENDPOINT_URL "
            f"and AWS_REGION. {RESUME_HINT}"
        )
    first = text.partition("\n")[0].strip()
    return f"{url}: the service answered: {first.rstrip('.')}. {RESUME_HINT}"


_in_memory: dict[str, ObjectStorage] = {}
"""What lies in this process's memory, which opening it again is to find."""


def open_storage(url: str) -> ObjectStorage:
    """Open what lies at a URL, without asking the service anything.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``, ``gs://``, ``az://``, ``file:///folder``, ``memory:///`` or another
        one that obstore opens.

    Raises
    ------
    StoreError
        When obstore is not installed or knows no such URL.
    """
    if url in _in_memory:
        return _in_memory[url]
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _unopened(url, str(error)) from error
    if parts.username or parts.password or parts.query or parts.fragment:
        raise StoreError(
            f"The store's URL names more than a place: {url.partition('://')[0]}://... It is "
            "written into records. Give bucket and prefix only, and the rest in the environment."
        )
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise StoreError(
            f"{url} is on object storage, which needs obstore. Install it with: pip install obstore"
        ) from error
    more: dict[str, Any] = {}
    if parts.scheme == "file":
        more = {"mkdir": True}
    elif parts.scheme != "memory":
        retry = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}
        more = {"retry_config": retry}
    try:
        remote = ObjectStorage(url, from_url(url, **more))
    except (BaseError, OSError, ValueError, TypeError) as error:
        raise _unopened(url, str(error)) from error
    if parts.scheme == "memory":
        _in_memory[url] = remote
    return remote


def _unopened(url: str, text: str) -> StoreError:
    first = text.partition("\n")[0]
    return StoreError(
        f"{url} can't be opened as a store ({first}). Give a folder, or a URL such as "
        "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix."
    )
