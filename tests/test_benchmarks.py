"""The benchmarks' own machinery: turns, tables, results, and the page that is written from them."""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from makers import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks as their scripts do, for one test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").is_file():
            del sys.modules[name]


def rates(*values: float) -> Any:
    """Return a contender that measures the given rates, one after the other."""
    left = iter(values)
    return lambda: {"images/s": next(left), "batch": 32, "engine": "eager"}


def extraction_rows() -> list[dict[str, Any]]:
    return [
        {
            "model": model,
            "contender": name,
            "batch": 32,
            "images/s": rate,
            "lowest": rate - 1,
            "highest": rate + 2,
            "read %": 1.5 if name == "featstore" else None,
        }
        for model in ("alexnet", "resnet50")
        for name, rate in (("featstore", 12.5), ("bare forward", 13.0), ("usual script", 9.25))
    ]


def test_each_round_is_compared_with_its_own_reference(load):
    turns = load("turns")
    rows = turns.take_turns({"ours": rates(10.0, 4.0), "bare": rates(20.0, 5.0)}, 2, "bare")
    assert [row["of bare"] for row in rows] == [0.5, 1, 0.8, 1]
    assert [row["round"] for row in rows] == [1, 1, 2, 2]
    best = turns.take_turns({"a": rates(10.0), "b": rates(20.0)}, 1, None)
    assert [row["of best"] for row in best] == [0.5, 1]


def test_a_summary_has_medians_and_the_range(load):
    turns = load("turns")
    rows = turns.take_turns({"ours": rates(9.0, 4.0, 5.0)}, 3, None)
    assert turns.summary(rows, ("engine", "batch", "images/s", "device MB")) == [
        {
            "contender": "ours",
            "engine": "eager",
            "batch": 32,
            "images/s": 5.0,
            "lowest": 4.0,
            "highest": 9.0,
            "device MB": None,
        }
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process held at most")
def test_peak_memory_is_the_process_s_own(load):
    turns = load("turns")
    peak = turns.peak_rss_nbytes()
    block = bytearray(os.urandom(64)) * 2**20
    assert turns.peak_rss_nbytes() >= max(peak, len(block))


def test_a_command_is_measured_from_its_start_to_its_end(load):
    turns = load("turns")
    found = turns.run_command([sys.executable, "-c", "print('done')"])
    assert found["printed"] == "done\n"
    assert found["seconds"] > 0
    assert found["command RSS MB"] > 1
    with pytest.raises(turns.subprocess.CalledProcessError):
        turns.run_command([sys.executable, "-c", "raise SystemExit(3)"])


def test_table_shows_three_digits_and_gaps(load, capsys):
    load("results").table([{"name": "a", "rate": 1234.5}, {"name": "b", "rate": None}], "Rates")
    printed = capsys.readouterr().out
    assert "Rates" in printed
    assert "1,234" in printed
    assert "None" not in printed


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (0.123456, "0.123"), (12345.6, "12,346"), (500000, "500,000"), ("x", "x")],
)
def test_text(load, value, shown):
    assert load("results").text(value) == shown


def test_save_keeps_rows_turns_and_provenance(load, tmp_path, monkeypatch):
    results = load("results")
    arguments = ["/somewhere/bench_x.py", "--root", "/home/me/images", "--weights=/w/net.pth"]
    monkeypatch.setattr(sys, "argv", arguments)
    results.save(
        "x",
        [{"a": 1.5}],
        [{"a": 1.0}, {"a": 2.0}],
        title="X",
        device="cuda:0 (H100)",
        label="net",
        folder=tmp_path,
    )
    record = json.loads((tmp_path / "x-net-cuda.json").read_text())
    assert record["benchmark"] == "x"
    assert record["command"] == "python benchmarks/bench_x.py --root images --weights=net.pth"
    assert record["rows"] == [{"a": 1.5}]
    assert len(record["turns"]) == 2
    assert record["versions"]["torch"]
    assert record["machine"]["n_cores"] > 0


def save_some(load: Any, folder: Path, device: str) -> None:
    results = load("results")
    results.save("extract", extraction_rows(), title="8 files", device=device, folder=folder)
    results.save("sink", [{"codec": "a|b", "size": 0.5}], folder=folder)
    results.save("unheard-of", [{"a": 1}], folder=folder)


def test_page_says_what_was_measured_where(load, tmp_path):
    save_some(load, tmp_path / "results", "cpu (2 threads)")
    page = load("page")
    page.write(tmp_path / "results", tmp_path / "docs")
    written = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "No GPU has been measured" in written
    assert written.index("## Extraction") < written.index("## The store's chunks and codec")
    assert "| resnet50 | featstore | 32 | 12.5 | 11.5 | 14.5 | 1.5 |" in written
    assert "| resnet50 | usual script | 32 | 9.25 | 8.25 | 11.2 |  |" in written
    assert "a\\|b" in written
    assert "unheard-of" not in written
    assert "cpu (2 threads)" in written
    assert "images/benchmarks.png" in written
    assert (tmp_path / "docs" / "images" / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


def test_page_names_the_gpus_once_there_are_results_of_one(load, tmp_path):
    save_some(load, tmp_path / "results", "cuda:0 (NVIDIA H100)")
    page = load("page")
    page.write(tmp_path / "results", tmp_path / "docs")
    written = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "No GPU has been measured" not in written
    assert "GPUs measured: cuda:0 (NVIDIA H100)." in written


def test_page_and_plot_are_the_same_for_the_same_results(load, tmp_path):
    save_some(load, tmp_path / "results", "cpu (2 threads)")
    page = load("page")
    for name in ("one", "two"):
        page.write(tmp_path / "results", tmp_path / name)
    for name in ("benchmarks.md", "images/benchmarks.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_every_benchmark_says_how_to_run_it():
    scripts = sorted(BENCHMARKS.glob("bench_*.py"))
    assert len(scripts) >= 8
    for script in scripts:
        about = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
        assert f"python benchmarks/{script.name}" in (about or ""), script.name


def test_every_kept_result_has_a_place_on_the_page(load):
    sections = load("page").SECTIONS
    for path in (BENCHMARKS / "results").glob("*.json"):
        if path.stem.endswith(("-cpu", "-cuda")):
            assert json.loads(path.read_text(encoding="utf-8"))["benchmark"] in sections
