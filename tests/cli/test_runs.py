import json

import pytest
from conftest import blank_figures, store_in

from featstore.cli.main import _run
from featstore.fitting.fit import fit
from featstore.runs.listing import list_fits
from featstore.runs.opening import list_runs
from featstore.store.feature_store import open_store


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Return the store of four fits, one of them repeated, which no test changes."""
    store = store_in(tmp_path_factory.mktemp("runs"))
    with blank_figures():
        fit(store, ["lda", "ridge", "knn"], n_jobs=1)
        fit(store, "lda", repeats=3, split_seed=5, n_jobs=1)
    return store


@pytest.fixture
def own(run):
    """Return the store of one run, which a test may change."""
    return open_store(run.path.parent.parent)


def call(store, *args):
    return _run(["runs", *map(str, args), "--store", str(store.path)])


def test_ls_ranks_repeats_and_single_splits_apart_and_marks_the_best(filled, capsys):
    assert call(filled, "ls", "--json") == 0
    lines = json.loads(capsys.readouterr().out)["runs"]
    repeated, *single = lines
    assert (repeated["n_repeats"], repeated["ranked_by"]) == (3, "repeated splits")
    assert [line["ranked_by"] for line in single] == ["test"] * 3
    accuracies = [line["accuracy"] for line in single]
    assert accuracies == sorted(accuracies, reverse=True)
    assert [line["is_best"] for line in lines].count(True) == 1
    assert call(filled, "ls") == 0
    out = capsys.readouterr().out
    first, second = out.split("demo: accuracy")[1:]
    assert "ranked by the mean over repeated test splits, split: random, seeds 5 to 7" in first
    assert "lda x 3" in first
    assert "ranked by one test split, split: official" in second
    (best,) = (line for line in lines if line["is_best"])
    (line,) = (line for line in out.splitlines() if line.rstrip().endswith("best"))
    assert best["run_id"].endswith(line.split()[0])


def test_ls_all_lists_each_repeat_with_the_seed_of_its_split(filled, capsys):
    assert call(filled, "ls", "--all", "--json") == 0
    lines = json.loads(capsys.readouterr().out)["runs"]
    assert [line["split_text"] for line in lines[:4]] == [
        "random, seeds 5 to 7",
        *(f"random, seed {seed}" for seed in (5, 6, 7)),
    ]
    assert [line["is_repeat"] for line in lines] == [False, True, True, True, False, False, False]
    assert call(filled, "ls", "--all") == 0
    assert capsys.readouterr().out.count("- repeat, seed") == 3


def test_ls_fits_80_columns(filled, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert call(filled, "ls") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_ls_of_one_dataset(filled, capsys):
    assert call(filled, "ls", "--dataset", "demo") == 0
    assert call(filled, "ls", "--dataset", "dmo") == 1
    assert "Did you mean demo?" in capsys.readouterr().err


def test_ls_of_no_runs_says_how_to_make_one(store, capsys):
    assert call(store, "ls") == 0
    assert "featstore fit" in capsys.readouterr().out
    assert call(store, "ls", "--json") == 0
    assert json.loads(capsys.readouterr().out)["runs"] == []


def test_show_has_the_facts_and_the_classes(filled, capsys):
    assert call(filled, "show", "last") == 0
    out, err = capsys.readouterr()
    last = list_runs(filled)[-1]
    assert out.startswith(f"{err.split()[-1]}\n")
    for text in ("accuracy", "featstore fit --store", "240 to train", "barren land", "recall"):
        assert text in out
    assert call(filled, "show", last.run_id, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run_id"] == last.run_id
    assert found["metrics"]["test"]["accuracy"] == last.metrics.test.accuracy


def test_tag_names_a_run_for_all_commands(own, run, capsys):
    assert call(own, "tag", "best", "paper") == 0
    assert f"paper now names {run.run_id}" in capsys.readouterr().out
    assert call(own, "show", "paper", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["tags"] == ["paper"]
    assert f"paper is {run.run_id}" in err
    assert call(own, "tag", "paper", "--remove") == 0
    assert call(own, "show", "paper") == 1
    assert call(own, "tag", "best") == 2


def test_a_repeat_with_a_tag_has_a_row_of_its_own(filled, capsys):
    row = next(line for line in list_fits(filled) if line["n_repeats"] > 1)
    tagged = next(run_id for run_id in row["run_ids"] if run_id != row["run_id"])
    assert call(filled, "tag", tagged, "mine") == 0
    try:
        assert [line["run_id"] for line in list_fits(filled)[:2]] == [row["run_id"], tagged]
    finally:
        assert call(filled, "tag", "mine", "--remove") == 0


def test_rm_asks_and_a_no_removes_nothing(own, run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.readline", lambda *_: "n\n")
    assert call(own, "rm", run.run_id) == 1
    err = capsys.readouterr().err
    assert "Nothing was removed." in err
    assert "Interrupted" not in err
    assert list_runs(own)
    assert call(own, "rm", run.run_id, "--yes") == 0
    assert list_runs(own) == []
    assert call(own, "rm", run.run_id, "--yes") == 1
    assert "holds no runs" in capsys.readouterr().err
