from __future__ import annotations

import json

import pytest

from featstore.cli.main import _run
from featstore.errors import DownloadError
from featstore.models import weights

pytestmark = pytest.mark.usefixtures("blank_pictures", "few_epochs")


@pytest.fixture
def args(tmp_path, monkeypatch):
    def offline(url, *_):
        raise DownloadError(f"{url} can't be fetched.")

    monkeypatch.setattr(weights, "fetch", offline)
    options = {"store": "store", "root": "data", "report": "report.html"}
    places = [text for name, file in options.items() for text in (f"--{name}", tmp_path / file)]
    return ["demo", "--limit", "16", *map(str, places)]


@pytest.mark.soak
def test_the_demo_ends_in_a_report(args, tmp_path, capsys):
    pytest.importorskip(weights.MOBILENET_PACKAGE)
    assert _run(args) == 0
    out = capsys.readouterr().out
    assert "real ImageNet weights (IMAGENET1K_V1)" in out
    assert "logreg" in out
    assert "mlp" in out
    assert "The best run on demo: " in out
    assert "featstore extract --model mobilenet_v2 --dataset folder" in out
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!")
    assert (tmp_path / "data" / "demo" / "demo-full.mat").is_file()


@pytest.mark.soak
def test_without_any_weights_it_says_so_plainly(args, capsys, monkeypatch):
    monkeypatch.setattr(weights, "packaged_mobilenet", lambda: None)
    assert _run([*args, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert "RANDOM weights" in result["weights"]
    assert len(result["runs"]) == 11
    networks = [run["name"] for run in result["runs"] if run["model"] == "mobilenet_v2"]
    assert all(name.startswith("mobilenet_v2 (random:0) ") for name in networks)
    assert "pip install" in captured.err
