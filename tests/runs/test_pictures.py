import os
import random

import pytest
from makers import Listener
from PIL import Image

from featstore.cli.main import _run
from featstore.fitting.fit import fit, fit_each
from featstore.report.write import write_report
from featstore.runs import charts
from featstore.runs.pictures import draw_missing_pictures, draw_pictures
from featstore.runs.ranking import Ranking
from featstore.runs.run import list_runs, open_run
from featstore.runs.verification import verify_runs


@pytest.fixture(autouse=True)
def _no_drawings():
    """Draw the runs' pictures here."""


@pytest.fixture
def store(make_store):
    """Return a store with one set and no run."""
    return make_store()


@pytest.fixture
def run(store):
    """Return a run with its pictures."""
    return fit(store)[0]


def fail(*args):
    raise MemoryError("no room for a picture")


def test_a_run_is_kept_before_its_pictures_are_drawn(store, monkeypatch):
    seen = []

    def draw(confusion, class_names):
        (run,) = list_runs(store)
        seen.append(run.model.predict(store.select().memmap()[:1]))
        raise KeyboardInterrupt

    monkeypatch.setattr(charts, "draw_confusion", draw)
    with pytest.raises(KeyboardInterrupt):
        fit(store)
    assert len(seen) == 1
    assert verify_runs(store) == (1, [])


def test_a_failure_to_draw_costs_the_picture_only_and_is_said(store, monkeypatch):
    monkeypatch.setattr(charts, "draw_confusion", fail)
    listener = Listener()
    (one,) = fit_each(store, "sgd", progress=listener)
    assert one.error is None
    assert not one.reused
    assert not (one.run.path / "confusion.png").exists()
    said = [line for line in listener.lines if "no room for a picture" in line]
    assert len(said) == 1
    assert "The run is kept; featstore report draws them." in said[0]
    assert {path.name for path in store.runs_dir.iterdir()} == {one.run.run_id}


@pytest.mark.parametrize(
    "way", ["the same fit", pytest.param("the report", marks=pytest.mark.soak)]
)
def test_missing_pictures_are_drawn_when_the_run_is_answered_or_reported(
    store, way, tmp_path, no_umap
):
    (run,) = fit(store, "sgd")
    names = ("confusion.png", "curves.png")
    before = [(run.path / name).read_bytes() for name in names]
    for name in names:
        (run.path / name).unlink()
    assert verify_runs(store) == (1, [])
    if way == "the same fit":
        (again,) = fit_each(store, "sgd")
        assert again.reused
    else:
        write_report(store, [open_run(run.path)], tmp_path / "report.html", projection="pca")
    assert [(run.path / name).read_bytes() for name in names] == before
    record = (run.path / "metrics.json").read_bytes()
    assert draw_pictures(run) == ""
    assert (run.path / "metrics.json").read_bytes() == record


def test_of_repeats_one_has_pictures_and_others_get_theirs_when_shown(store, capsys):
    runs = fit(store, "lda", repeats=3, split_seed=0, n_jobs=1)
    (line,) = Ranking(runs).lines
    drawn = [run.run_id for run in runs if (run.path / "confusion.png").exists()]
    assert drawn == [line["run_id"]]
    bare = next(run for run in runs if run.run_id not in drawn)
    assert _run(["runs", "show", bare.run_id, "--store", str(store.path)]) == 0
    assert (bare.path / "confusion.png").exists()


def test_a_damaged_picture_is_drawn_again_and_a_whole_one_is_left_alone(run, monkeypatch):
    path = run.path / "confusion.png"
    whole = path.read_bytes()
    rng = random.Random(0)
    # In the signature, the header's chunk, anywhere, and in the last one with content.
    for place in (3, 20, rng.randrange(len(whole)), len(whole) - 20):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert draw_pictures(run) == ""
        assert path.read_bytes() == whole
    path.write_bytes(whole[: len(whole) // 2])
    assert draw_pictures(run) == ""
    assert path.read_bytes() == whole
    monkeypatch.setattr(charts, "draw_confusion", fail)
    assert draw_pictures(run) == ""


def test_a_run_that_is_removed_meanwhile_does_not_come_back(run, store, monkeypatch):
    (run.path / "confusion.png").unlink()
    draw = charts.draw_confusion

    def remove_and_draw(*args):
        run.path.rename(run.path.with_name("elsewhere"))
        return draw(*args)

    monkeypatch.setattr(charts, "draw_confusion", remove_and_draw)
    assert "are missing (FileNotFoundError" in draw_pictures(run)
    assert [path.name for path in store.runs_dir.iterdir()] == ["elsewhere"]


def test_several_failures_are_one_line(store, monkeypatch):
    runs = fit(store, ["ridge", "lda", "knn"])
    for run in runs:
        os.unlink(run.path / "confusion.png")
    monkeypatch.setattr(charts, "draw_confusion", fail)
    listener = Listener()
    draw_missing_pictures(runs, listener)
    (line,) = listener.lines
    assert runs[0].run_id in line
    assert line.endswith("So are those of 2 more runs.")


def test_pictures_are_pictures(run):
    with Image.open(run.path / "confusion.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
