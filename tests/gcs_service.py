"""A Google Cloud Storage service on the loopback interface: its XML interface, for tests.

It enforces the precondition on an object's generation, which is what tells it from S3.
"""

from __future__ import annotations

import hashlib
import http.server
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from services import BUCKET, serving

PAGE = 1000
"""Objects on a page of a listing."""


class Objects:
    """The objects of one bucket: bytes and generation by name; every write has a new generation."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[bytes, int]] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()
        self.n_requests = 0
        self._generations = itertools.count(1_700_000_000_000_000)

    def write(self, name: str, content: bytes, wanted: str | None) -> int | None:
        """Return the new generation; None if the object's generation is not the wanted one."""
        with self.lock:
            if wanted is not None and int(wanted) != self.found.get(name, (b"", 0))[1]:
                return None
            self.found[name] = content, next(self._generations)
            return self.found[name][1]

    def listing(self, query: dict[str, str]) -> str:
        """Return a page of a listing as XML."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after") or ""
        entries: dict[str, str] = {}
        with self.lock:
            names = sorted(n for n in self.found if n.startswith(prefix) and n > after)
        for name in names:
            head, cut, _ = name[len(prefix) :].partition(delimiter or "\0")
            if delimiter and cut:
                folder = f"{prefix}{head}{cut}"
                if not after.startswith(folder):
                    entries[folder] = f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix>"
                    entries[folder] += "</CommonPrefixes>"
            else:
                content, generation = self.found[name]
                entries[name] = (
                    f"<Contents><Key>{escape(name)}</Key><Generation>{generation}</Generation>"
                    "<LastModified>2024-01-01T00:00:00.000Z</LastModified>"
                    f"<ETag>{etag(content)}</ETag><Size>{len(content)}</Size></Contents>"
                )
        page = dict(itertools.islice(sorted(entries.items()), PAGE))
        more = len(entries) > len(page)
        last = max(page, default="")
        following = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult>{''.join(page.values())}{following}"
            f"<IsTruncated>{str(more).lower()}</IsTruncated></ListBucketResult>"
        )


def etag(content: bytes) -> str:
    """Return the etag of an object, its MD5 in quotes."""
    return f'"{hashlib.md5(content).hexdigest()}"'


@contextmanager
def gcs_service() -> Iterator[tuple[str, Objects]]:
    """Yield the endpoint of a service with one empty bucket, and the bucket's objects."""
    bucket = Objects()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _asked(self) -> tuple[str, dict[str, str], bytes]:
            bucket.n_requests += 1
            parts = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return unquote(parts.path).removeprefix(f"/{BUCKET}").removeprefix("/"), query, body

        def _refuse(self) -> None:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")

        def _write(self, name: str, content: bytes, body: bytes = b"") -> None:
            generation = bucket.write(name, content, self.headers.get("x-goog-if-generation-match"))
            if generation is None:
                self._refuse()
            else:
                self._answer(200, body, ETag=etag(content), x_goog_generation=str(generation))

        def do_PUT(self) -> None:
            name, query, body = self._asked()
            if "uploadId" in query:
                bucket.parts[query["uploadId"]][int(query["partNumber"])] = body
                self._answer(200, ETag=etag(body))
            else:
                self._write(name, body)

        def do_POST(self) -> None:
            name, query, _ = self._asked()
            if "uploads" in query:
                bucket.parts[name] = {}
                self._answer(
                    200,
                    f"<InitiateMultipartUploadResult><UploadId>{escape(name)}</UploadId>"
                    "</InitiateMultipartUploadResult>".encode(),
                )
                return
            parts = bucket.parts.pop(query["uploadId"])
            content = b"".join(parts[number] for number in sorted(parts))
            done = f"<ETag>{etag(content)}</ETag>"
            self._write(
                name,
                content,
                f"<CompleteMultipartUploadResult>{done}</CompleteMultipartUploadResult>".encode(),
            )

        def do_GET(self) -> None:
            name, query, _ = self._asked()
            if not name:
                self._answer(200, bucket.listing(query).encode())
            elif name in bucket.found:
                content, generation = bucket.found[name]
                self._answer(
                    200,
                    content,
                    ETag=etag(content),
                    Last_Modified=formatdate(usegmt=True),
                    x_goog_generation=str(generation),
                )
            else:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def do_DELETE(self) -> None:
            name, _, _ = self._asked()
            with bucket.lock:
                gone = bucket.found.pop(name, None)
            self._answer(404 if gone is None else 204)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as endpoint:
        yield endpoint, bucket


def point_at_gcs(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Let the environment name the service, which takes no credentials."""
    account = {"gcs_base_url": endpoint, "disable_oauth": True} | dict.fromkeys(
        ("client_email", "private_key", "private_key_id"), ""
    )
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
