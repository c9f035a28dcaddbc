"""Stores on object storage for tests: in this process's memory, and on an S3 service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gcs_service import Objects, gcs_service, point_at_gcs
from services import BUCKET, machine, new_bucket, s3_service, store_at

from featstore.store.feature_store import FeatureStore
from featstore.store.format import matrix
from featstore.store.remote import backend, client


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Return the endpoint of an S3 service that all tests share."""
    with s3_service() as found:
        yield found


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Return the URL of an empty store in memory; other processes do not see it."""
    machine(monkeypatch, tmp_path, 1)
    monkeypatch.setattr(backend, "REFRESH_S", 0.0)
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000 * 5)
    yield f"memory:///{tmp_path.name}/a prefix"
    client._in_memory.clear()


@pytest.fixture
def s3_url(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Return the URL of an empty store on the S3 service."""
    return f"{new_bucket(endpoint, monkeypatch, tmp_path)}/a prefix"


@pytest.fixture(scope="session")
def gcs() -> Iterator[tuple[str, Objects]]:
    """Return the endpoint of a Google Cloud Storage service, and the objects of its bucket."""
    with gcs_service() as found:
        yield found


@pytest.fixture
def gs_url(gcs: tuple[str, Objects], url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of an empty store on the Google Cloud Storage service."""
    endpoint, bucket = gcs
    point_at_gcs(monkeypatch, endpoint)
    bucket.found.clear()
    return f"gs://{BUCKET}/a prefix"


@pytest.fixture
def filled(url: str) -> FeatureStore:
    """Return a store with a set of 320 rows and 20 features, in two chunks, that was sent."""
    return store_at(url)
