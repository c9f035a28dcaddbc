"""Who may take over a lease, by a clock that the tests set: no test waits."""

from __future__ import annotations

import json

import pytest

from featstore.errors import StoreError
from featstore.store.remote import lease as leases
from featstore.store.remote.client import open_storage
from featstore.store.remote.lease import hold_lease

NAME = "locks/x.json"


@pytest.fixture
def remote(tmp_path):
    return open_storage(f"memory:///{tmp_path.name}")


class Clock:
    """A clock that only moves when somebody sleeps; `meanwhile` is called at each renewal time."""

    def __init__(self, meanwhile=lambda: None):
        self.now_s, self.meanwhile, self.renew_s = 0.0, meanwhile, leases.RENEW_S
        self._renewed_s = 0.0

    def monotonic(self):
        return self.now_s

    time = monotonic

    def sleep(self, duration_s):
        self.now_s += duration_s
        if self.now_s - self._renewed_s >= self.renew_s:
            self._renewed_s = self.now_s
            self.meanwhile()


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(leases, "time", made)
    return made


class GivenUpError(Exception):
    """The test has waited long enough."""


def test_a_lease_that_is_renewed_is_never_taken_over(remote, clock):
    with hold_lease(remote, NAME, "it") as lease:

        def renew():
            lease.renew()
            # From now on, every other renewal fails.
            clock.renew_s = 2 * leases.RENEW_S
            if clock.now_s > 10 * leases.LEASE_S:
                raise GivenUpError

        clock.meanwhile = renew
        with pytest.raises(GivenUpError), hold_lease(remote, NAME, "it"):
            pass
        assert lease.own_etag()
        assert json.loads(remote.get(NAME))["lease"] == lease._note["lease"]


def test_one_that_does_not_wait_watches_for_one_renewal(remote, clock):
    with hold_lease(remote, NAME, "it") as lease:
        clock.meanwhile = lease.renew
        with (
            pytest.raises(StoreError, match="worked on by process"),
            hold_lease(remote, NAME, "it", wait=False),
        ):
            pass
        assert lease.own_etag()
        assert clock.now_s < leases.LEASE_S


@pytest.mark.parametrize("wait", [True, False])
def test_a_lease_that_is_not_renewed_is_taken_over(wait, remote, clock):
    remote.put(NAME, b'{"pid": 1}')
    with hold_lease(remote, NAME, "it", wait=wait) as lease:
        assert leases.LEASE_S < clock.now_s < leases.LEASE_S + 2 * leases.LOOK_S
        assert lease.own_etag()
