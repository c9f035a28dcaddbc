from __future__ import annotations

import shutil

import pytest
from conftest import blank_figures, small_networks
from makers import Listener

from featstore.errors import ConfigError, DatasetNotFoundError, DownloadError
from featstore.models import weights
from featstore.report.paper import N_EPOCHS
from featstore.store.feature_store import open_store
from featstore.study import Study, reproduce, steps
from featstore.study import run as running

FIRST, DEEP, FINAL = "features.0", "features.13.conv.2", "classifier.1"


def study(root, **settings):
    settings = {
        "datasets": ("demo",),
        "models": ("mobilenet_v2",),
        "clf": ("lda",),
        "weights": "random:0",
        "root": str(root),
        "limit": 24,
        **settings,
    }
    return Study(**settings)


pytestmark = pytest.mark.usefixtures("small_inputs")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder and the outcome of a whole study; its data and store are shared."""
    folder = tmp_path_factory.mktemp("study")
    store = open_store(folder / "store")
    page = folder / "s" / "r.html"
    with blank_figures(), small_networks():
        outcome = reproduce(study(folder / "data"), store, page, files=folder / "s")
    return folder, outcome


@pytest.fixture
def store(finished, tmp_path):
    """Return a copy of the study's store, to go on in."""
    shutil.copytree(finished[0] / "store", tmp_path / "store")
    return open_store(tmp_path / "store")


@pytest.fixture
def again(finished):
    """Return what makes the same study, with other settings if asked for."""
    return lambda root=finished[0] / "data", **settings: study(root, **settings)


def test_the_report_has_all_that_is_compared(finished):
    folder, outcome = finished
    found = {(run.selection.model, *run.selection.layers, run.clf) for run in outcome.runs}
    assert found == {
        ("pixelstats", "stats", "lda"),
        ("mobilenet_v2", FIRST, "lda"),
        ("mobilenet_v2", DEEP, "lda"),
        ("mobilenet_v2", FINAL, "lda"),
        ("mobilenet_v2", FIRST, DEEP, FINAL, "lda"),
        ("mobilenet_v2", FINAL, "softmax"),
    }
    (softmax,) = [run for run in outcome.runs if run.clf == "softmax"]
    assert len(softmax.curves["loss"]) == N_EPOCHS
    assert len(outcome.report["tables"]["layers-demo"]["rows"]) == 1
    assert (outcome.left_out, outcome.failures, outcome.n_reused) == ([], [], 0)
    assert (folder / "s" / "layers-demo.tex").is_file()
    # Its networks are random, and named so.
    names = {row["name"] for row in outcome.report["runs"]}
    assert f"mobilenet_v2 (random:0) {FINAL} · lda" in names
    # All layers of a network come out of one pass.
    store = open_store(folder / "store")
    assert len({part.completed for part in store.sets()[0].layers().values()}) == 1


@pytest.mark.usefixtures("short_reports")
def test_asked_again_nothing_is_computed(finished, store, again, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the store has it")

    monkeypatch.setattr("featstore.extraction.pipeline.run_pass", never)
    monkeypatch.setattr("featstore.fitting.dispatch.fit_task", never)
    listener = Listener()
    outcome = reproduce(again(), store, tmp_path / "r.html", progress=listener)
    assert [run.run_id for run in outcome.runs] == [run.run_id for run in finished[1].runs]
    assert outcome.n_reused == len(outcome.runs)
    (phase,) = listener.named("Study")
    assert (phase.n_done, phase.total) == (6, 6)
    assert all(phase.is_over for phase in listener.phases)


@pytest.mark.usefixtures("short_reports", "few_epochs")
def test_an_interrupted_study_resumes(store, again, tmp_path, monkeypatch):
    for run in store.runs_dir.iterdir():
        shutil.rmtree(run)
    whole = running.fit_each
    calls = []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args, **options)

    monkeypatch.setattr(running, "fit_each", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce(again(), store, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    outcome = reproduce(again(), store, tmp_path / "r.html")
    assert (len(outcome.runs), outcome.n_reused) == (6, 1)


@pytest.mark.usefixtures("blank_pictures")
def test_missing_datasets_are_named_and_left_out(store, again, tmp_path):
    outcome = reproduce(again(datasets=("sat4", "demo")), store, tmp_path / "r.html")
    (left_out,) = outcome.left_out
    assert "sat-4-full.mat" in left_out
    assert {run.selection.dataset for run in outcome.runs} == {"demo"}
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Left out: sat4" in page
    with pytest.raises(DatasetNotFoundError, match=r"No dataset was found\.\nsat4"):
        reproduce(again(datasets=("sat4",)), store, tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


@pytest.mark.usefixtures("short_reports")
def test_a_network_without_weights_is_left_out(store, again, tmp_path, monkeypatch):
    def offline(url, *_):
        raise DownloadError(f"{url} can't be fetched.")

    monkeypatch.setattr(weights, "fetch", offline)
    asked = again(models=("alexnet",), weights="imagenet")
    outcome = reproduce(asked, store, tmp_path / "r.html")
    (left_out,) = outcome.left_out
    assert left_out.startswith("alexnet on demo: ")
    assert {run.selection.model for run in outcome.runs} == {"pixelstats"}
    assert outcome.failures == []


@pytest.mark.usefixtures("short_reports")
def test_failures_are_named_and_the_study_continues(finished, store, again, tmp_path):
    shutil.copytree(finished[0] / "data", tmp_path / "data")
    (tmp_path / "data" / "sat-4-full.mat").write_bytes(b"no MATLAB file")
    asked = again(datasets=("sat4", "demo"), root=tmp_path / "data")
    outcome = reproduce(asked, store, tmp_path / "r.html")
    assert [failure.split(":")[0] for failure in outcome.failures] == [
        "pixelstats on sat4",
        "mobilenet_v2 on sat4",
    ]
    assert all("sat-4-full.mat" in failure for failure in outcome.failures)
    assert {run.selection.dataset for run in outcome.runs} == {"demo"}
    assert outcome.report["left_out"] == outcome.failures


def test_the_papers_study_is_the_default():
    asked = list(steps(Study()))
    assert len(asked) == 3 * (1 + 4)
    assert [step.model for step in asked[:5]] == [
        "pixelstats",
        "alexnet",
        "vgg19",
        "googlenet",
        "resnet50",
    ]
    assert asked[4].layers == ("conv1", "res4e_branch2c", "fc1000")
    assert asked[4].selections[-1] == "conv1,res4e_branch2c,fc1000"
    assert asked[4].by_epochs == "fc1000"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ()}, "models is empty"),
        ({"datasets": ("sat5",)}, "no dataset 'sat5'"),
        ({"clf": ("logreg", "nosuch")}, "no classifier 'nosuch'. There are logreg"),
        ({"clf": ("no_such_module:Clf",)}, "no_such_module:Clf can't be used"),
        ({"limit": 0}, "limit is 0; it must be a whole number from 1"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"models": ("efficientnet_b0",)}, "featstore extract --model efficientnet_b0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Study(**settings)


def test_all_classifiers_may_be_asked_for():
    assert Study(clf=("all",)).clf == ("all",)


def test_rivals_follow_the_papers_networks():
    asked = list(steps(Study(datasets=("sat4", "ucmerced"), rivals=True)))
    assert [(step.model, step.clf) for step in asked[5:8]] == [
        ("deepsat", ("dbn",)),
        ("satcnn", ("logreg",)),
        ("triplet:satcnn", ("linear-svm",)),
    ]
    assert [step.training.get("network") for step in asked[5:8]] == [None, "satcnn", "triplet"]
    # On larger images no network is trained by triplets: that would take a GPU.
    last = asked[-1]
    assert (last.dataset, last.model, last.clf) == ("ucmerced", "resnet50", ("triplet",))
    assert (last.layers, last.training) == (("fc1000",), {})


@pytest.mark.soak
@pytest.mark.usefixtures("short_reports")
def test_rivals_are_trained_fitted_and_found_again(store, again, tmp_path):
    asked = again(rivals=True, limit=48)
    outcome = reproduce(asked, store, tmp_path / "s" / "r.html")
    assert outcome.failures == []
    found = {(run.selection.model, run.clf) for run in outcome.runs}
    assert {
        ("deepsat", "dbn"),
        ("satcnn", "lda"),
        ("triplet:satcnn", "linear-svm"),
    } <= found
    names = {path.name for path in (tmp_path / "s" / "trained").glob("*.pth")}
    assert names == {"satcnn-demo.pth", "triplet-satcnn-demo.pth"}
    repeated = reproduce(asked, store, tmp_path / "s" / "r.html")
    assert repeated.n_reused == len(outcome.runs)
