"""The benchmarks' own machinery: turns, tables, results, and the page that is written from them."""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from makers import ROOT
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from featstore.environment import available_cores
from featstore.store.feature_store import open_store

BENCHMARKS = ROOT / "benchmarks"

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux says what memory a process holds"
)


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


@linux
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


def test_timed_turns_are_compared_within_their_round(load):
    turns = load("turns")
    seconds = iter([2.0, 8.0, 4.0, 5.0])
    rows = turns.take_timed_turns(
        {
            "ours": lambda: {"seconds": next(seconds), "MB": 30},
            "other": lambda: {"seconds": next(seconds), "MB": 60},
            "absent": lambda: {"note": "not installed"},
        },
        2,
    )
    turns.divide(rows, "other", "seconds", "speed", by_own=True)
    turns.divide(rows, "other", "MB", "memory")
    assert [row.get("speed") for row in rows] == [4.0, 1.0, None, 1.25, 1.0, None]
    assert [row.get("memory") for row in rows] == [0.5, 1.0, None, 0.5, 1.0, None]
    columns = ("seconds", "speed", "note", "C")
    ours, _, absent = turns.without_empty_columns(turns.summary(rows, columns))
    assert ours["seconds"] == 3.0
    assert (ours["lowest"], ours["highest"], ours["speed"]) == (2.0, 4.0, 2.625)
    assert absent["seconds"] is absent["lowest"] is None
    assert absent["note"] == "not installed"
    assert "C" not in ours


HOLD = """
import sys, time
from pathlib import Path
block = bytearray(30_000_000)
deadline = time.monotonic() + 60
while not Path(sys.argv[1]).exists() and time.monotonic() < deadline:
    time.sleep(0.01)
print("{}")
"""


@linux
@pytest.mark.parametrize("kind", ["shared_fairly", "resident"])
def test_a_watched_command_has_its_children_s_memory(load, tmp_path, kind):
    trees = load("trees")

    def look(pid):
        found = getattr(trees, kind)(pid)
        if min(found.values(), default=0) > 30_000:
            # The child ends once it was measured.
            (tmp_path / "seen").touch()
        return found

    child = [sys.executable, "-c", HOLD, str(tmp_path / "seen")]
    code = f"import subprocess; subprocess.run({child!r})"
    found = trees.watch([sys.executable, "-c", code], look)
    assert all(found[f"peak {name} MB"] > 30 for name in look(os.getpid()))
    assert found["seconds"] > 0
    assert trees.last_json({"printed": 'x\n{"a": 1}\n', "seconds": 2.0}) == {"a": 1, "seconds": 2.0}


@linux
def test_a_watched_command_that_fails_says_why(load):
    trees = load("trees")
    with pytest.raises(trees.subprocess.CalledProcessError) as caught:
        trees.watch([sys.executable, "-c", "import sys; sys.exit('no such thing')"])
    assert "no such thing" in caught.value.stderr


def test_synthetic_features_are_the_same_in_store_and_arrays(load, tmp_path):
    made = load("features")
    features = made.Features(n_samples=9000, n_features=20, n_test=900)
    made.write_store(tmp_path / "store", features, ["one", "two"])
    made.write_arrays(tmp_path, features, ["one", "two"])
    store = open_store(tmp_path / "store")
    made.decode(store)
    assert len(list(store.cache_dir.glob("*.npy"))) == 2
    y = np.load(tmp_path / "y.npy")
    for layer in ("one", "two"):
        X = np.load(tmp_path / f"X-{layer}.npy")
        np.testing.assert_array_equal(store.select(layers=layer).memmap(), X)
        clf = LinearDiscriminantAnalysis().fit(X[:-900], y[:-900])
        assert 0.7 < clf.score(X[-900:], y[-900:]) < 0.85
    selection = store.select(layers="one")
    np.testing.assert_array_equal(selection.y, y)
    assert selection.splits.sum() == 900
    assert np.load(tmp_path / "n_train.npy") == 8100


def run_script(load: Any, name: str, results: Path, *options: str) -> None:
    done = CliRunner().invoke(load(name).main, [*options, "--results", str(results)])
    assert done.exit_code == 0, done.output


def rows_of(results: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((results / f"{name}-cpu.json").read_text())["rows"]


def test_models_without_a_network_are_measured_by_clock_and_by_cpu(load):
    bench = load("bench_statistics")
    images = np.zeros((130, *bench.SHAPE), np.uint8)
    found = [bench.run(kind, images) for kind in bench.EXTRACTORS]
    assert [turn["features"] for turn in found] == [46, 150]
    assert all(turn["images/s"] > 0 and turn["images/CPU s"] > 0 for turn in found)


@linux
@pytest.mark.soak
def test_a_search_is_measured_beside_scikit_learn_s(load, tmp_path, monkeypatch):
    bench = load("bench_fit")
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda package: None)
    options = ["--parts", "search", "--search-shape", "400,20", "--n-folds", "3", "--repeats", "1"]
    run_script(load, "bench_fit", tmp_path, *options)
    ours, theirs, *absent = rows_of(tmp_path, "fit-search")
    assert ours["contender"] == "featstore"
    assert 0 < ours["inside s"] < ours["seconds"]
    assert ours["speed"] == pytest.approx(theirs["seconds"] / ours["seconds"])
    assert ours["memory"] == pytest.approx(ours["peak PSS MB"] / theirs["peak PSS MB"])
    assert ours["CV %"] == pytest.approx(theirs["CV %"], abs=1.0)
    assert [row["note"] for row in absent] == ["not installed"] * 2


@linux
@pytest.mark.soak
def test_a_peer_that_fails_says_why(load, tmp_path):
    bench = load("bench_fit")
    # There are no arrays to load.
    assert (
        "FileNotFoundError"
        in bench.run_peer("joblib", "search_scikit_learn", tmp_path, "0", "3")["note"]
    )


@linux
@pytest.mark.soak
def test_one_call_is_measured_beside_loops(load, tmp_path):
    options = ["--parts", "together", "--together-shape", "2,200,20", "--clf", "ridge,knn"]
    run_script(load, "bench_fit", tmp_path, *options, "--repeats", "1")
    one_call, *loops = rows_of(tmp_path, "fit-together")
    assert one_call["of one call"] == 1
    assert {row["fits"] for row in (one_call, *loops)} == {4}
    for loop in loops:
        ratio = loop["seconds"] / one_call["seconds"]
        assert loop["of one call"] == pytest.approx(ratio)
        assert loop["mean test %"] == pytest.approx(one_call["mean test %"], abs=2)
        if loop["per core"] is not None:
            assert loop["per core"] * available_cores() == pytest.approx(ratio)
    assert [loop["per core"] is None for loop in loops] == [True, False, False, True, False]


@linux
@pytest.mark.soak
def test_the_scheduler_s_bytes_are_counted(load, tmp_path):
    bench = load("bench_fit")
    features = load("features").Features(n_samples=200, n_features=8, n_test=40)
    found = bench.count_traffic(features, "ridge,lda", tmp_path)
    # Two searches, each in one pass, and two fits.
    assert found["tasks"] == 4
    assert 0 < found["returned kB"] < found["sent kB"] < found["all messages kB"] < 1000
    assert 0 < found["heartbeats kB"] < found["all messages kB"]


@linux
@pytest.mark.soak
def test_scale_is_measured_by_whole_commands(load, tmp_path):
    options = ["--n-samples", "600", "--n-features", "20", "--clf", "logreg,sgd"]
    run_script(load, "bench_scale", tmp_path / "a", *options, "--folder", str(tmp_path / "b"))
    logreg, sgd = rows_of(tmp_path / "a", "scale")
    for row in (logreg, sgd):
        assert row["seconds"] > row["load s"] + row["fit s"] + row["evaluate s"]
        assert row["peak RSS MB"] > row["anonymous MB"] > 0
        assert row["of matrix"] == pytest.approx(row["peak RSS MB"] / (600 * 20 * 4 / 1e6))
        assert 40 < row["test %"] <= 100
    assert sgd["epochs"] > 1
    assert logreg["epochs"] is None
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["600x20-60-0"]


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
    assert "images/benchmarks.png" in written
    assert (tmp_path / "docs" / "images" / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


def test_page_names_the_machine_once_and_versions_where_they_differ(load, tmp_path):
    save_some(load, tmp_path / "results", "cpu (2 threads)")
    page = load("page")
    path = next((tmp_path / "results").glob("extract*.json"))
    record = json.loads(path.read_text())
    record["versions"]["zarr"] = "2.0.1"
    path.write_text(json.dumps(record))
    page.write(tmp_path / "results", tmp_path / "docs")
    written = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert written.count(f"{record['machine']['n_cores']} cores") == 1
    assert written.count(f"torch {record['versions']['torch']}") == 1
    assert written.count("zarr 2.0.1") == 1
    assert f"{record['measured'][:10]}, zarr 2.0.1." in written


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
