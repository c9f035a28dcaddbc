"""Object storage for tests: an S3 service on the loopback interface, and ones that fail."""

from __future__ import annotations

import hashlib
import http.server
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from conftest import add_features, blobs
from moto.server import ThreadedMotoServer

from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.format import matrix
from featstore.store.remote import backend
from featstore.store.set_folder import GROUP, SETS, UPLOADS

BUCKET = "bucket"

DELETED = b"<DeleteResult><Deleted><Key>a</Key></Deleted></DeleteResult>"


@contextmanager
def s3_service() -> Iterator[str]:
    """Yield the endpoint of an S3 service that keeps all in this process's memory."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def point_at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Let the environment name a service and credentials for it."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)


def empty_bucket(endpoint: str) -> None:
    """Make the bucket anew."""
    requests.post(f"{endpoint}/moto-api/reset", timeout=10).raise_for_status()
    requests.put(f"{endpoint}/{BUCKET}", timeout=10).raise_for_status()


def new_bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Make an empty bucket; let chunks be small and listings never be cached; return its URL."""
    point_at(monkeypatch, endpoint)
    empty_bucket(endpoint)
    machine(monkeypatch, tmp_path, 1)
    monkeypatch.setattr(backend, "REFRESH_S", 0.0)
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000 * 5)
    return f"s3://{BUCKET}"


@contextmanager
def refusing_service(status: int, body: str) -> Iterator[str]:
    """Yield the endpoint of a service that answers everything with one refusal."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _refuse  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as endpoint:
        yield endpoint


@contextmanager
def stammering_service(breaks: list[int]) -> Iterator[str]:
    """Yield the endpoint of a service whose next answers break off, as many as `breaks` says."""
    listed = (
        b"<ListBucketResult><Contents><Key>a</Key><ETag>x</ETag><Size>1</Size>"
        b"<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
        b"<IsTruncated>false</IsTruncated></ListBucketResult>"
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = DELETED if self.command == "POST" else listed
            breaks[0] -= 1
            n_sent = len(body) - 9 if breaks[0] >= 0 else len(body)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(body[:n_sent])

        do_GET = do_POST = _answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as endpoint:
        yield endpoint


@contextmanager
def forgetful_service(lost: list[str]) -> Iterator[str]:
    """Yield the endpoint of a service with conditional writes that loses some answers.

    Of each of the next writes one of `lost` is taken: ``500`` or ``gone``, by when it is done.
    """
    objects: dict[str, bytes] = {}

    def etag(path: str) -> str:
        return f'"{hashlib.md5(objects[path]).hexdigest()}"'

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            if self.path in objects:
                self.send_header("ETag", etag(self.path))
                self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            old = etag(self.path) if self.path in objects else None
            wanted = self.headers.get("If-Match")
            if (self.headers.get("If-None-Match") and old) or (wanted and wanted != old):
                self._answer(412)
                return
            objects[self.path] = body
            match lost.pop(0) if lost else "":
                case "500":
                    self._answer(500)
                case "gone":
                    self.close_connection = True
                case _:
                    self._answer(200)

        def do_GET(self) -> None:
            found = objects.get(self.path)
            self._answer(404 if found is None else 200, found or b"")

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def do_DELETE(self) -> None:
            objects.pop(self.path, None)
            self._answer(204)

        def do_POST(self) -> None:
            # Several objects that are to be deleted.
            self.rfile.read(int(self.headers["Content-Length"]))
            objects.clear()
            self._answer(200, DELETED)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as endpoint:
        yield endpoint


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Yield the endpoint of a service on a free port of the loopback interface."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def machine(monkeypatch: pytest.MonkeyPatch | None, tmp_path: Path, number: int) -> dict[str, str]:
    """Become another machine, with a working folder of its own; return its environment."""
    folder = str(tmp_path / f"machine {number}")
    if monkeypatch is not None:
        monkeypatch.setenv("FEATSTORE_CACHE", folder)
    return os.environ | {"FEATSTORE_CACHE": folder}


def store_at(url: str, n_samples: int = 320, n_features: int = 20) -> FeatureStore:
    """Return the store at a URL, with one set of one layer, ``fc``, that was sent there."""
    store = open_store(url)
    X, y = blobs(n_samples, n_features)
    splits = (np.arange(n_samples) >= n_samples * 3 // 4).astype(np.uint8)
    add_features(store, {"fc": X}, y, splits)
    publish(store)
    return store


def set_objects(store: FeatureStore, set_id: str) -> dict[str, bytes]:
    """Return the content of a set's uploaded files, by name below ``features.zarr/``."""
    prefix = f"{UPLOADS}/{SETS}/{set_id}/"
    remote = store.backend.remote
    return {name.split(f"{GROUP}/")[1]: remote.get(name) for name in remote.entries(prefix)}


def object_of(store: FeatureStore, set_id: str, name: str) -> str:
    """Return the name of the object of a set's file below ``features.zarr/``."""
    prefix = f"{UPLOADS}/{SETS}/{set_id}/"
    (found,) = [n for n in store.backend.remote.entries(prefix) if n.endswith(f"{GROUP}/{name}")]
    return found


def publish(store: FeatureStore) -> None:
    """Send all complete layers, as extract does in the end."""
    for feature_set in store.sets():
        with store.backend.working_on(feature_set.set_id):
            store.backend.push_set(feature_set, held=True)
