"""Object storage by its URL; the only file that imports obstore.

An object exists whole or not at all. Every failure of the service becomes a StoreError that says
what to do, see :mod:`.services`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from featstore.errors import StoreError
from featstore.io.files import check_record_size
from featstore.store.remote.services import (
    RETRIES,
    explain,
    is_broken,
    lacks_conditions,
    names_no_bucket,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")
R = TypeVar("R")

N_AT_A_TIME = 16
"""Requests in flight. A request waits for the network far longer than it computes."""


RETRY_S = 60.0
"""Longest time in which a request is repeated."""


BROKEN_S = 0.5
"""Seconds until a broken-off request is repeated; doubled each time."""


WHOLE_NBYTES = 16 * 2**20
"""Largest file that is uploaded in one request; larger files are uploaded in parts."""


@dataclass(frozen=True)
class Entry:
    """Size, etag and time of an object; the etag changes whenever the object does."""

    nbytes: int
    etag: str
    modified: datetime = field(compare=False)

    @classmethod
    def of(cls, meta: Any) -> Entry:
        """Return the entry of an object from obstore's description of it."""
        return cls(meta["size"], _plain(meta["e_tag"]), meta["last_modified"])


def _plain(etag: str | None) -> str:
    """Return an etag without quotes, with which some services list it and others don't."""
    return (etag or "").strip('"')


class ObjectStorage:
    """The objects below a prefix of a bucket. Made by :func:`open_storage`.

    Names of objects are relative to the prefix. `store` is obstore's.
    """

    def __init__(self, url: str, store: ObjectStore) -> None:
        self.url = url
        self.is_conditional = True
        """Whether the service has conditional writes, as far as is known; see :meth:`create`."""
        self.is_proven = False
        """Whether the service has refused to create an object that exists."""
        self._store = store
        import obstore
        from obstore import exceptions as errors

        self._obs = obstore
        self._absent = (errors.NotFoundError, FileNotFoundError)
        self._taken = (errors.AlreadyExistsError, errors.PreconditionError)
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

    def _answer(self, request: Callable[[], T], absent: T) -> T:
        """Return what a request returns, or `absent` if the object does not exist.

        If the answer breaks off, the request is repeated.
        """
        n_broken = 0
        with self._explained():
            while True:
                try:
                    return request()
                except self._absent as error:
                    self._check_bucket(error)
                    return absent
                except self._failures as error:
                    if n_broken == RETRIES or not is_broken(str(error)):
                        raise
                time.sleep(BROKEN_S * 2**n_broken)
                n_broken += 1

    def get(self, name: str) -> bytes | None:
        """Return a record's bytes; None if it does not exist."""
        found = self.read(name)
        return None if found is None else found[0]

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Return a record's bytes and etag; None if it does not exist."""

        def get() -> tuple[bytes, str] | None:
            found = self._obs.get(self._store, name)
            check_record_size(f"{self.url}/{name}", found.meta["size"])
            return bytes(found.bytes()), _plain(found.meta["e_tag"])

        return self._answer(get, None)

    def sha256(self, name: str, copy: Path | None = None) -> str | None:
        """Return the sha256 (hex) of an object's bytes; None if it does not exist.

        With `copy`, the bytes are also written to that file.
        """

        def read() -> str | None:
            digest = hashlib.sha256()
            stream = self._obs.get(self._store, name).stream(min_chunk_size=2**20)
            with copy.open("wb") if copy else nullcontext() as file:
                for part in stream:
                    digest.update(part)
                    if file is not None:
                        file.write(part)
            return digest.hexdigest()

        return self._answer(read, None)

    def put(self, name: str, data: bytes | Path) -> str:
        """Write an object, over an old one if it exists; return its etag."""
        return self._put(name, data, "overwrite")

    def create(self, name: str, data: bytes) -> str | None:
        """Write an object and return its etag; return None if the object exists.

        If the service has no conditional writes, :attr:`is_conditional` becomes false, and the
        object is looked up first, so another machine may still write in between.
        """
        if self.is_conditional:
            try:
                return self._put(name, data, "create")
            except _TakenError:
                return self._etag_of(name, data)
            except _UnableError:
                self.is_conditional = False
        if self._head(name) is not None:
            return None
        return self.put(name, data)

    def replace(self, name: str, data: bytes, etag: str) -> str | None:
        """Replace the object with this `etag`; return the new etag, or None if it has changed."""
        found = self._head(name)
        if found is None or _plain(found["e_tag"]) != etag:
            return self._etag_of(name, data)
        if self.is_conditional:
            condition = {"e_tag": found["e_tag"]}
            if self.url.startswith("gs:"):
                # Google compares the generation, and lists objects without it.
                condition["version"] = found["version"]
            try:
                return self._put(name, data, condition)
            except _TakenError:
                return self._etag_of(name, data)
            except _UnableError:
                # Local disks create conditionally, but can't replace conditionally.
                pass
        return self.put(name, data)

    def _etag_of(self, name: str, data: bytes) -> str | None:
        """Return the etag of an object if it has exactly these bytes, else None.

        A request whose answer was lost is repeated, and then finds its own object.
        """
        found = self.read(name)
        return found[1] if found is not None and found[0] == data else None

    def _put(self, name: str, data: bytes | Path, mode: Any) -> str:
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
                # The object that was to be replaced is gone.
                raise _TakenError from None
            except self._failures as error:
                if mode != "overwrite" and lacks_conditions(str(error)):
                    raise _UnableError from None
                raise
        return _plain(done["e_tag"])

    def entry(self, name: str) -> Entry | None:
        """Return the entry of an object; None if it does not exist."""
        found = self._head(name)
        return None if found is None else Entry.of(found)

    def _head(self, name: str) -> Any:
        return self._answer(lambda: self._obs.head(self._store, name), None)

    def entries(self, prefix: str) -> dict[str, Entry]:
        """Return all objects below a prefix that ends in a slash."""
        pages: list[Any] = self._answer(lambda: list(self._obs.list(self._store, prefix)), [])
        return {meta["path"]: Entry.of(meta) for page in pages for meta in page}

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; objects that do not exist are no error."""

        def delete_one(name: str) -> None:
            self._answer(lambda: self._obs.delete(self._store, name), None)

        for _ in self.each(delete_one, names):
            pass

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield the function's result for each item, in order; several requests run at a time."""
        pool = ThreadPoolExecutor(N_AT_A_TIME)
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)

    def _check_bucket(self, error: BaseException) -> None:
        if names_no_bucket(str(error)):
            raise StoreError(explain(self.url, str(error))) from error


class _TakenError(StoreError):
    """The object exists already, or the object to be replaced has changed."""


class _UnableError(StoreError):
    """The service has no conditional writes."""


_in_memory: dict[str, ObjectStorage] = {}
"""Stores in this process's memory, so that opening one again finds its objects."""


def open_storage(url: str) -> ObjectStorage:
    """Open the store at a URL without a request to the service.

    The URL is ``s3://bucket/prefix``, ``gs://``, ``az://``, ``file:///folder``, ``memory:///`` or
    another one that obstore opens.
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
