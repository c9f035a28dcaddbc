"""Who may take over a lease, by a clock that the tests set: no test waits."""

from __future__ import annotations

import json
import os

import pytest
from makers import Listener

from featstore.errors import StoreError
from featstore.store.remote import lease as leases
from featstore.store.remote import sync_state
from featstore.store.remote.client import open_storage
from featstore.store.remote.lease import hold_lease
from featstore.store.remote.sync_state import SyncState

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


@pytest.mark.parametrize("place", ["another folder", "a clone of the machine"])
def test_a_lease_that_is_renewed_is_never_taken_over(place, remote, clock):
    with hold_lease(remote, NAME, "it", "here") as lease:

        def renew():
            lease.renew()
            # From now on, two of three renewals fail.
            clock.renew_s = 3 * leases.RENEW_S
            if clock.now_s > 10 * leases.LEASE_S:
                raise GivenUpError

        clock.meanwhile = renew
        if place == "a clone of the machine":
            # Its process has a number that is in use here, too.
            lease._note["pid"] = os.getppid()
            lease.renew()
        waiting = hold_lease(remote, NAME, "it", "here" if "clone" in place else "there")
        with pytest.raises(GivenUpError), waiting:
            pass
        assert lease.own_etag()
        assert json.loads(remote.get(NAME))["lease"] == lease._note["lease"]


def test_one_that_does_not_wait_watches_a_clone_for_one_renewal(remote, clock):
    with hold_lease(remote, NAME, "it", "here") as lease:
        lease._note["pid"] = os.getppid()
        lease.renew()
        clock.meanwhile = lease.renew
        with (
            pytest.raises(StoreError, match="worked on by process"),
            hold_lease(remote, NAME, "it", "here", wait=False),
        ):
            pass
        assert lease.own_etag()


@pytest.mark.parametrize(
    ("pid", "least_s", "most_s"),
    [
        # A process that lives or is unknown may have been given the number of the dead one.
        (os.getppid(), leases.RENEW_S, leases.LEASE_S),
        (None, leases.RENEW_S, leases.LEASE_S),
        (os.getpid(), 0, 0),
        (2**22 + 1, 0, 0),
    ],
    ids=["another", "unknown", "own", "dead"],
)
def test_a_lease_of_the_own_folder_waits_for_a_renewal_unless_its_process_is_dead(
    pid, least_s, most_s, remote, clock
):
    remote.put(NAME, json.dumps({"place": "here", "pid": pid}).encode())
    with hold_lease(remote, NAME, "it", "here", Listener()) as lease:
        assert least_s <= clock.now_s <= most_s
        assert lease.own_etag()


@pytest.mark.parametrize("what", ["MACHINE_ID", "BOOT_ID"])
def test_a_cloned_disk_or_another_start_of_the_machine_is_another_place(
    what, tmp_path, monkeypatch
):
    state = SyncState(tmp_path, "s3://bucket")
    own = state.place
    assert state.place == own
    (tmp_path / "id").write_text("another\n")
    monkeypatch.setattr(sync_state, what, str(tmp_path / "id"))
    assert state.place != own
    # Not every system has such ids.
    monkeypatch.setattr(sync_state, what, str(tmp_path / "none"))
    assert state.place != own
