"""The hub's own client downloads from a server on the loopback interface."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest
import safetensors.torch

from featstore.errors import WeightsError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.hub import hub_file
from featstore.models.registry import find_network
from featstore.models.weights import checkpoints_folder

constants = pytest.importorskip("huggingface_hub.constants")
pytest.importorskip("timm")


def point_at(monkeypatch, endpoint):
    # The client reads HF_ENDPOINT once, when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Yield the files of a hub, by their paths, and the requests that it got."""
    files: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(f"{self.command} {self.path}")
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            if body is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(body or b"").hexdigest()}"')
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command == "GET" and body:
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    point_at(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    try:
        yield files, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_tags_weights_come_from_the_hub_once(hub, tmp_path):
    files, asked = hub
    model, network = "timm:resnet18.a1_in1k", find_network("timm:resnet18.a1_in1k")
    content = safetensors.torch.save(network.build(224, 3).state_dict())
    files["/timm/resnet18.a1_in1k/resolve/main/model.safetensors"] = content
    cache = FingerprintCache(tmp_path / "cache")
    found = network.find_weights("imagenet", cache)
    assert found.path.read_bytes() == content
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert (found.name, network.model) == ("a1_in1k", model)
    asked.clear()
    assert network.find_weights("a1_in1k", cache) == found
    assert asked == []


def test_another_file_of_the_repository_stands_in(hub, tmp_path):
    files, _ = hub
    files["/a/b/resolve/v2/pytorch_model.bin"] = b"weights"
    names = ("model.safetensors", "pytorch_model.bin")
    assert hub_file("a/b@v2", names, tmp_path / "none", "timm:x").read_bytes() == b"weights"


def test_without_a_network_the_message_says_what_to_put_where(monkeypatch, tmp_path):
    point_at(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    # The client would wait before it tries again.
    monkeypatch.setattr(
        "huggingface_hub.utils._http.time.sleep", lambda _: pytest.fail("waited to try again")
    )
    with pytest.raises(WeightsError) as caught:
        find_network("timm:resnet18.a1_in1k").find_weights(
            "imagenet", FingerprintCache(tmp_path / "cache")
        )
    message = str(caught.value)
    assert "http://127.0.0.1:9/timm/resnet18.a1_in1k/resolve/main/model.safetensors" in message
    assert f"put it at {checkpoints_folder() / 'resnet18.a1_in1k.safetensors'}" in message
    assert "--weights FILE" in message
