from __future__ import annotations

import pytest
from makers import Listener

from featstore import study as studies
from featstore.errors import ConfigError, DatasetNotFoundError, DownloadError
from featstore.models import weights
from featstore.report.paper import N_EPOCHS
from featstore.store.feature_store import open_store
from featstore.study import Study, reproduce, steps

pytestmark = pytest.mark.usefixtures("no_umap", "blank_pictures", "small_inputs")


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def study(tmp_path, **settings):
    settings = {
        "datasets": ("demo",),
        "models": ("mobilenet_v2",),
        "weights": "random:0",
        "root": str(tmp_path / "data"),
        "limit": 60,
        **settings,
    }
    return Study(**settings)


def test_all_that_is_compared_is_in_the_report(store, tmp_path):
    outcome = reproduce(study(tmp_path), store, tmp_path / "s" / "r.html", files=tmp_path / "s")
    found = {(run.selection["model"], *run.selection["layers"], run.clf) for run in outcome.runs}
    first, deep, final = "features.0", "features.13.conv.2", "classifier.1"
    assert found == {
        ("pixelstats", "stats", "logreg"),
        ("mobilenet_v2", first, "logreg"),
        ("mobilenet_v2", deep, "logreg"),
        ("mobilenet_v2", final, "logreg"),
        ("mobilenet_v2", first, deep, final, "logreg"),
        ("mobilenet_v2", final, "softmax"),
    }
    (softmax,) = [run for run in outcome.runs if run.clf == "softmax"]
    assert len(softmax.curves["loss"]) == N_EPOCHS
    assert len(outcome.report["tables"]["layers-demo"]["rows"]) == 1
    assert (outcome.left_out, outcome.failures, outcome.n_reused) == ([], [], 0)
    assert (tmp_path / "s" / "layers-demo.tex").is_file()
    # All layers of a network come out of one pass.
    assert len({part["completed"] for part in store.sets()[0].layers().values()}) == 1


@pytest.mark.usefixtures("short_reports", "few_epochs")
def test_asked_again_nothing_is_computed(store, tmp_path, monkeypatch):
    first = reproduce(study(tmp_path), store, tmp_path / "r.html")

    def never(*_, **__):
        raise AssertionError("it is there")

    monkeypatch.setattr("featstore.extraction.pipeline.run_pass", never)
    monkeypatch.setattr("featstore.fitting.fit.fit_task", never)
    again = reproduce(study(tmp_path), store, tmp_path / "r.html")
    assert [run.run_id for run in again.runs] == [run.run_id for run in first.runs]
    assert again.n_reused == len(again.runs)


@pytest.mark.usefixtures("short_reports", "few_epochs")
def test_interrupted_it_goes_on_where_it_was(store, tmp_path, monkeypatch):
    whole = studies.fit_each
    calls = []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args, **options)

    monkeypatch.setattr(studies, "fit_each", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce(study(tmp_path), store, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    outcome = reproduce(study(tmp_path), store, tmp_path / "r.html")
    assert (len(outcome.runs), outcome.n_reused) == (6, 1)


@pytest.mark.usefixtures("few_epochs")
def test_missing_datasets_are_named_and_left_out(store, tmp_path):
    asked = study(tmp_path, datasets=("sat4", "demo"), models=("mobilenet_v2",))
    outcome = reproduce(asked, store, tmp_path / "r.html")
    (left_out,) = outcome.left_out
    assert "sat-4-full.mat" in left_out
    assert {run.selection["dataset"] for run in outcome.runs} == {"demo"}
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Left out: sat4" in page
    with pytest.raises(DatasetNotFoundError, match=r"None of the datasets is here\.\nsat4"):
        reproduce(study(tmp_path, datasets=("sat4",)), store, tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


@pytest.mark.usefixtures("short_reports", "few_epochs")
def test_weights_that_can_not_be_had_leave_their_network_out(store, tmp_path, monkeypatch):
    def offline(url, *_):
        raise DownloadError(f"{url} can't be fetched.")

    monkeypatch.setattr(weights, "fetch", offline)
    asked = study(tmp_path, models=("alexnet",), weights="imagenet")
    outcome = reproduce(asked, store, tmp_path / "r.html")
    (left_out,) = outcome.left_out
    assert left_out.startswith("alexnet on demo: ")
    assert {run.selection["model"] for run in outcome.runs} == {"pixelstats"}
    assert outcome.failures == []


@pytest.mark.usefixtures("short_reports", "few_epochs")
def test_what_fails_is_told_and_the_others_go_on(store, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sat-4-full.mat").write_bytes(b"no MATLAB file")
    asked = study(tmp_path, datasets=("sat4", "demo"))
    outcome = reproduce(asked, store, tmp_path / "r.html")
    assert [failure.split(":")[0] for failure in outcome.failures] == [
        "pixelstats on sat4",
        "mobilenet_v2 on sat4",
    ]
    assert all("sat-4-full.mat" in failure for failure in outcome.failures)
    assert {run.selection["dataset"] for run in outcome.runs} == {"demo"}
    assert outcome.report["left_out"] == outcome.failures


@pytest.mark.usefixtures("short_reports", "few_epochs")
def test_steps_are_told_of_as_a_whole(store, tmp_path):
    listener = Listener()
    reproduce(study(tmp_path), store, tmp_path / "r.html", progress=listener)
    (phase,) = listener.named("Study")
    assert (phase.n_done, phase.total) == (6, 6)
    assert all(phase.is_over for phase in listener.phases)


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
        ({"clf": ("logreg", "nosuch")}, "no classifier 'nosuch'; there are logreg"),
        ({"clf": ("no_such_module:Clf",)}, "no_such_module:Clf can't be used"),
        ({"limit": 0}, "limit is 0; it must be a whole number from 1"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"models": ("efficientnet_b0",)}, "featstore extract --model efficientnet_b0"),
    ],
)
def test_what_can_not_be_compared_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        Study(**settings)


def test_all_classifiers_may_be_asked_for():
    assert Study(clf=("all",)).clf == ("all",)
