import random
import shutil

import pytest
from conftest import store_in
from PIL import Image

from featstore.cli.main import _run
from featstore.fitting.fit import fit, fit_each
from featstore.runs import charts
from featstore.runs.opening import list_runs
from featstore.runs.pictures import draw_pictures
from featstore.runs.verification import verify_runs
from featstore.store.feature_store import open_store


@pytest.fixture(autouse=True)
def _no_drawings():
    """Draw the runs' pictures here."""


@pytest.fixture
def store(make_store):
    """Return a store with one set and no run."""
    return make_store()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Return a store with a run and its pictures, which no test changes."""
    store = store_in(tmp_path_factory.mktemp("drawn"))
    (run,) = fit(store)
    assert draw_pictures(run) == ""
    return store.path


@pytest.fixture
def run(drawn, tmp_path):
    """Return a run with its pictures, in a store of its own."""
    (run,) = list_runs(open_store(shutil.copytree(drawn, tmp_path / "drawn")))
    return run


def fail(*args):
    raise MemoryError("no room for a picture")


def test_pictures_are_drawn_when_the_run_is_shown(store, capsys):
    (run,) = fit(store, "sgd")
    names = ["confusion.png", "curves.png", "reliability.png"]
    assert not [*run.path.glob("*.png")]
    assert verify_runs(store) == (1, [])
    record = (run.path / "metrics.json").read_bytes()
    assert _run(["runs", "show", "last", "--store", str(store.path)]) == 0
    assert ", ".join(names) in capsys.readouterr().out
    assert sorted(path.name for path in run.path.glob("*.png")) == names
    before = [(run.path / name).read_bytes() for name in names]
    assert draw_pictures(run) == ""
    assert [(run.path / name).read_bytes() for name in names] == before
    assert (run.path / "metrics.json").read_bytes() == record
    assert fit_each(store, "sgd")[0].reused


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


def test_a_run_that_is_removed_meanwhile_does_not_come_back(run, monkeypatch):
    (run.path / "confusion.png").unlink()
    draw = charts.draw_confusion

    def remove_and_draw(*args):
        run.path.rename(run.path.with_name("elsewhere"))
        return draw(*args)

    monkeypatch.setattr(charts, "draw_confusion", remove_and_draw)
    assert "are missing (FileNotFoundError" in draw_pictures(run)
    assert [path.name for path in run.path.parent.iterdir()] == ["elsewhere"]


def test_a_run_without_pictures_is_shown_and_says_why(run, monkeypatch, capsys):
    (run.path / "confusion.png").unlink()
    monkeypatch.setattr(charts, "draw_confusion", fail)
    assert _run(["runs", "show", "last", "--store", str(run.path.parents[1])]) == 0
    shown = capsys.readouterr()
    assert run.run_id in shown.out
    why = "no room for a picture). The run is kept; the next featstore runs show draws them."
    assert why in " ".join(shown.err.split())


def test_pictures_are_pictures(run):
    with Image.open(run.path / "confusion.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
