from __future__ import annotations

import builtins
import threading
import time

import pytest
from makers import Listener
from services import (
    BUCKET,
    empty_bucket,
    forgetful_service,
    point_at,
    refusing_service,
    stammering_service,
)

from featstore.errors import CorruptionError, StoreError
from featstore.store.remote import client
from featstore.store.remote import lease as leases
from featstore.store.remote.client import open_storage
from featstore.store.remote.lease import hold_lease
from featstore.store.remote.services import explain


@pytest.fixture
def s3(endpoint, monkeypatch):
    point_at(monkeypatch, endpoint)
    empty_bucket(endpoint)
    return open_storage(f"s3://{BUCKET}/some/prefix")


@pytest.fixture(params=["s3", "gs"])
def service(request):
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return open_storage(request.getfixturevalue("gs_url"))


@pytest.fixture(params=["s3", "gs", "file", "memory"])
def remote(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3")
    if request.param == "gs":
        return open_storage(request.getfixturevalue("gs_url"))
    if request.param == "file":
        return open_storage(f"file://{tmp_path}/a folder")
    return open_storage(f"memory:///{tmp_path.name}")


def test_objects_are_written_read_listed_and_deleted(remote, tmp_path):
    assert remote.entries("sets/") == {}
    assert remote.get("sets/none") is None
    assert remote.sha256("sets/none") is None
    assert remote.entry("sets/none") is None
    remote.put("sets/a b/conv1@max/c/0", b"first")
    remote.put("sets/a b/layers/conv1@max.json", b"second")
    remote.put("sets/other/set.json", b"third")
    assert remote.get("sets/a b/conv1@max/c/0") == b"first"
    assert sorted(remote.entries("sets/a b/")) == [
        "sets/a b/conv1@max/c/0",
        "sets/a b/layers/conv1@max.json",
    ]
    copy = tmp_path / "copy"
    assert remote.sha256("sets/other/set.json", copy) == remote.sha256("sets/other/set.json")
    assert copy.read_bytes() == b"third"
    remote.delete(["sets/none", "sets/other/set.json", "sets/a b/conv1@max/c/0"])
    assert list(remote.entries("sets/")) == ["sets/a b/layers/conv1@max.json"]
    remote.delete([])


def test_a_record_that_is_too_large_is_refused_before_it_is_read(remote, monkeypatch):
    monkeypatch.setattr("featstore.io.files.MAX_RECORD_NBYTES", 3)
    remote.put("set.json", b"1234")
    with pytest.raises(CorruptionError, match=r"set\.json has 4 B; .* at most 3 B\. Put back"):
        remote.get("set.json")


def test_what_is_there_is_not_created_and_only_what_was_seen_is_replaced(remote):
    first = remote.create("record", b"one")
    assert first is not None
    assert remote.create("record", b"two") is None
    assert remote.get("record") == b"one"
    assert remote.replace("record", b"three", "another etag") is None
    assert remote.replace("none", b"three", first) is None
    second = remote.replace("record", b"four", first)
    assert second != first
    assert remote.get("record") == b"four"
    assert remote.is_conditional


def test_an_etag_changes_with_the_object(remote):
    remote.put("a", b"one")
    before = remote.entry("a")
    assert before == remote.entries("")["a"]
    remote.put("a", b"other")
    assert remote.entry("a").etag != before.etag
    assert remote.entry("a").nbytes == 5


def test_large_files_go_in_parts(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "WHOLE_NBYTES", 1000)
    content = bytes(range(256)) * 40_000
    (tmp_path / "large").write_bytes(content)
    etag = s3.put("large", tmp_path / "large")
    assert s3.get("large") == content
    assert s3.entries("")["large"].etag == etag
    assert etag.endswith("-2")


def test_a_service_without_conditions_is_asked_first(s3, monkeypatch):
    def refuse(name, data, mode):
        if mode != "overwrite":
            raise client._UnableError
        return original(name, data, mode)

    original = s3._put
    monkeypatch.setattr(s3, "_put", refuse)
    assert s3.create("record", b"one")
    assert not s3.is_conditional
    assert s3.create("record", b"two") is None
    etag = s3.entry("record").etag
    assert s3.replace("record", b"three", "another") is None
    assert s3.replace("record", b"three", etag)
    assert s3.get("record") == b"three"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s4://bucket/x", "can't be opened as a store.*s3://bucket/prefix"),
        ("s3:///x", "can't be opened"),
        ("s3://[x", "can't be opened as a store.*s3://bucket/prefix"),
        ("file://[x", "can't be opened as a store.*s3://bucket/prefix"),
        ("az://container/x", "can't be opened.*Account"),
        ("s3://key:secret@bucket/x", "names more than a place"),
        ("s3://bucket/x?token=1", "names more than a place"),
    ],
)
def test_a_bad_url_is_refused(url, said, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StoreError, match=said) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_obstore_it_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def without(name, *rest, **more):
        if name.partition(".")[0] == "obstore":
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StoreError, match="pip install obstore"):
        open_storage("s3://bucket/x")


OPERATIONS = {
    "list": lambda remote: remote.entries("sets/"),
    "get": lambda remote: remote.get("a"),
    "hash": lambda remote: remote.sha256("a"),
    "put": lambda remote: remote.put("a", b"1"),
    "create": lambda remote: remote.create("a", b"1"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_missing_bucket_is_named(s3, operation):
    missing = open_storage("s3://no-such-bucket/x")
    with pytest.raises(StoreError, match="no-such-bucket/x: there is no such bucket. Create it"):
        OPERATIONS[operation](missing)


@pytest.mark.parametrize("operation", [*OPERATIONS, "delete"])
def test_denied_access_is_said(operation, monkeypatch):
    body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    with refusing_service(403, body) as endpoint:
        point_at(monkeypatch, endpoint)
        remote = open_storage("s3://bucket/x")
        with pytest.raises(StoreError, match="denies access.*AWS_ACCESS_KEY_ID.*is kept"):
            {**OPERATIONS, "delete": lambda r: r.delete(["a"])}[operation](remote)


def test_conditions_that_are_not_implemented_are_done_without(monkeypatch):
    body = "<Error><Code>NotImplemented</Code><Message>A header you provided</Message></Error>"
    with refusing_service(501, body) as endpoint:
        point_at(monkeypatch, endpoint)
        monkeypatch.setattr(client, "RETRIES", 0)
        remote = open_storage("s3://bucket/x")
        with pytest.raises(StoreError, match="the service answered"):
            remote.create("a", b"1")
        assert not remote.is_conditional


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_service_that_is_gone_is_said(operation, monkeypatch):
    monkeypatch.setattr(client, "RETRIES", 0)
    point_at(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="does not answer.*AWS_ENDPOINT_URL.*is kept"):
        OPERATIONS[operation](open_storage("s3://bucket/x"))


@pytest.mark.parametrize("operation", ["list", "get", "hash", "delete"])
def test_an_answer_that_breaks_off_is_asked_for_again(operation, monkeypatch):
    work = {**OPERATIONS, "delete": lambda remote: remote.delete(["a"])}[operation]
    monkeypatch.setattr(client, "BROKEN_S", 0.0)
    breaks = [2]
    with stammering_service(breaks) as endpoint:
        point_at(monkeypatch, endpoint)
        remote = open_storage("s3://bucket")
        work(remote)
        assert breaks[0] < 0
        breaks[0] = 1000
        with pytest.raises(StoreError, match="answers broke off 6 times.*is kept"):
            work(remote)


def test_an_endpoint_that_is_not_encrypted_is_used_only_when_that_is_allowed(s3, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StoreError, match="AWS_ALLOW_HTTP=true"):
        open_storage(f"s3://{BUCKET}/x").get("a")


def test_what_else_a_service_says_is_passed_on_in_a_line():
    text = explain("s3://b", "Generic S3 error: something odd\n\nDebug source: ...")
    assert text.startswith("s3://b: the service answered: Generic S3 error: something odd. What is")
    assert "credentials were found" in explain("s3://b", "http://169.254.169.254/latest/api/token")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(leases, "RENEW_S", 0.1)
    monkeypatch.setattr(leases, "LOOK_S", 0.05)


def test_a_lease_is_held_renewed_and_given_back(remote, quick):
    with hold_lease(remote, "locks/x.json", "it") as lease:
        etag = remote.entry("locks/x.json").etag
        until = time.monotonic() + 60
        while remote.entry("locks/x.json").etag == etag:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert lease.own_etag()
    assert remote.entry("locks/x.json") is None


def test_another_machine_waits_and_says_for_whom(service, quick):
    listener, order = Listener(), []

    def work():
        with hold_lease(service, "locks/x.json", "it", listener):
            order.append("second")

    with hold_lease(service, "locks/x.json", "it"):
        thread = threading.Thread(target=work)
        thread.start()
        until = time.monotonic() + 60
        while not listener.lines:
            assert time.monotonic() < until
            time.sleep(0.02)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]
    assert len(listener.lines) == 1
    assert "it is being worked on by process" in listener.lines[0]


def test_one_that_does_not_wait_is_refused_by_a_living_holder_alone(service, quick):
    with (
        hold_lease(service, "locks/x.json", "it"),
        pytest.raises(StoreError, match="being worked on by process .* Wait for its end"),
        hold_lease(service, "locks/x.json", "it", wait=False),
    ):
        pass
    with hold_lease(service, "locks/x.json", "it", wait=False) as lease:
        assert lease.own_etag()


def test_a_dead_holder_is_followed(service, quick, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_S", 0.3)
    service.put("locks/x.json", b'{"pid": 1, "host": "far", "since": "then"}')
    listener = Listener()
    with hold_lease(service, "locks/x.json", "it", listener) as lease:
        assert lease.own_etag()
    assert "process 1 on far since then" in listener.lines[0]


def test_a_holder_that_was_followed_leaves_the_lease_alone(remote, quick):
    with hold_lease(remote, "locks/x.json", "it") as lease:
        remote.put("locks/x.json", b"{}")
        lease.renew()
    assert remote.get("locks/x.json") == b"{}"


@pytest.mark.parametrize("loss", ["500", "gone"])
def test_an_answer_that_is_lost_loses_no_write(monkeypatch, quick, loss):
    lost = []
    with forgetful_service(lost) as endpoint:
        point_at(monkeypatch, endpoint)
        remote = open_storage("s3://bucket/x")

        def losing(write):
            lost[:] = [loss]
            try:
                return write()
            finally:
                assert lost == []

        first = losing(lambda: remote.create("a", b"one"))
        assert first
        assert remote.create("a", b"another") is None
        assert losing(lambda: remote.replace("a", b"two", first))
        assert remote.replace("a", b"three", first) is None
        assert remote.get("a") == b"two"
        monkeypatch.setattr(leases, "RENEW_S", 60.0)
        with hold_lease(remote, "locks/x.json", "it") as lease:
            losing(lease.renew)
            lease.renew()
            # As where the network is gone before the write is tried again.
            original = remote.replace

            def breaks(*args):
                original(*args)
                raise StoreError("gone")

            with monkeypatch.context() as patch:
                patch.setattr(remote, "replace", breaks)
                lease.renew()
            etag = lease.own_etag()
            lease.renew()
            assert lease.own_etag() not in (None, etag)
        assert remote.entry("locks/x.json") is None


def test_without_conditions_there_is_no_lease_and_it_is_said_once(s3, monkeypatch):
    listener = Listener()
    original = s3._put
    # A service that takes the header and does not heed it.
    monkeypatch.setattr(s3, "_put", lambda name, data, mode: original(name, data, "overwrite"))
    for _ in range(2):
        with hold_lease(s3, "locks/x.json", "it", listener) as lease:
            assert lease is None
    assert len(listener.lines) == 1
    assert "no conditional writes" in listener.lines[0]
    assert s3.entry("locks/x.json") is None
