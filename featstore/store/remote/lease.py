"""Leases: locks on object storage that expire when their holder dies.

A lease is an object that its holder rewrites every few seconds. A waiting machine takes over a
lease that has not changed for a while by its own clock, so clocks need not agree.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from featstore.environment import now
from featstore.errors import StoreError
from featstore.io.locks import BUSY_CURE, busy_text, this_holder
from featstore.progress import SILENT, Progress
from featstore.store.remote.client import ObjectStorage

LEASE_S = 30.0
"""Seconds without a renewal after which a lease may be taken over."""


RENEW_S = 10.0
"""Seconds between two renewals."""


LOOK_S = 2.0
"""Seconds between two checks of a lease that another machine holds."""


UNKNOWN = "another machine"
"""Name of a holder whose note can't be read."""


class Lease:
    """A lease that this process holds. Made by :func:`hold_lease`.

    `name` is the object, `note` its content. A lease only saves work: a machine that lost it
    unawares writes over nothing.
    """

    def __init__(self, remote: ObjectStorage, name: str, note: dict[str, Any]) -> None:
        self._remote, self._name, self._note = remote, name, note
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._over.wait(RENEW_S):
            self.renew()

    def renew(self) -> None:
        """Rewrite the object, unless another machine has taken over the lease."""
        # The network may recover before the lease expires.
        with suppress(StoreError):
            if (etag := self.own_etag()) is not None:
                self._remote.replace(self._name, _body(self._note), etag)

    def release(self) -> None:
        """Delete the object, if this lease still holds it."""
        self._over.set()
        self._thread.join()
        with suppress(StoreError):
            if self.own_etag() is not None:
                self._remote.delete([self._name])

    def own_etag(self) -> str | None:
        """Return the etag of the object; None if another machine has taken over the lease."""
        found = self._remote.read(self._name)
        is_own = found is not None and _parsed(found[0]).get("lease") == self._note["lease"]
        return found[1] if found is not None and is_own else None


def _body(note: dict[str, Any]) -> bytes:
    # Each renewal has other content, so that the etag changes.
    return json.dumps(note | {"renewed": now(), "nonce": secrets.token_hex(4)}).encode()


@contextmanager
def hold_lease(
    remote: ObjectStorage,
    name: str,
    what: str,
    progress: Progress = SILENT,
    *,
    wait: bool = True,
) -> Iterator[Lease | None]:
    """Hold the lease in the object `name`; yield None if the service has no conditional writes.

    Messages call the leased thing `what`. If another process holds the lease, `progress` says which
    one, and this process waits; without `wait` it raises StoreError when the lease is renewed.
    """
    note = {"what": what, "lease": secrets.token_hex(8), **this_holder()}
    if not _acquire(remote, name, note, progress, wait=wait):
        yield None
        return
    lease = Lease(remote, name, note)
    try:
        yield lease
    finally:
        lease.release()


def _acquire(
    remote: ObjectStorage, name: str, note: dict[str, Any], progress: Progress, *, wait: bool
) -> bool:
    """Take the lease; return false if the service has no conditional writes."""
    was_conditional = remote.is_conditional
    seen: str | None = None
    seen_at = time.monotonic()
    told = False
    while True:
        etag = remote.create(name, _body(note)) if remote.is_conditional else None
        if etag is not None and _keeps_conditions(remote, name, note):
            return True
        if not remote.is_conditional:
            if was_conditional:
                progress.say(
                    f"{remote.url}: the service has no conditional writes, so that two machines "
                    "don't see that they do the same work. Let one at a time write there."
                )
            remote.delete([name])
            return False
        found = remote.read(name)
        if found is None:
            continue
        content, etag = found
        busy = busy_text(note["what"], _parsed(content), UNKNOWN)
        if etag != seen:
            if seen is not None and not wait:
                raise StoreError(f"{busy}. {BUSY_CURE}")
            seen, seen_at = etag, time.monotonic()
        if time.monotonic() - seen_at > LEASE_S:
            if remote.replace(name, _body(note), etag) is not None:
                return True
            continue
        if not told:
            told = True
            progress.say(
                f"{busy}; waiting for it, or until it has been silent for {LEASE_S:.0f} s."
            )
        time.sleep(LOOK_S)


def _keeps_conditions(remote: ObjectStorage, name: str, note: dict[str, Any]) -> bool:
    """Return whether the service refuses to create an object that exists; some overwrite it."""
    if remote.is_conditional and not remote.is_proven:
        if remote.create(name, _body(note)) is None and remote.is_conditional:
            remote.is_proven = True
        else:
            remote.is_conditional = False
    return remote.is_conditional


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return {}
