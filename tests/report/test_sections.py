from __future__ import annotations

from dataclasses import replace

import pytest

from featstore.fitting.fit import fit
from featstore.report.sections import Sections
from featstore.store.format.run_schema import RunRecord

CURVES = {"loss": [1.0, 0.5], "accuracy": [0.5, 0.9], "validation_accuracy": []}
FINAL = {"resnet50": "fc1000", "alexnet": "fc8", "vgg19": "fc8", "pixelstats": "stats"}


@pytest.fixture
def make_run(make_store):
    """Make runs of curves, on features as if they were of the networks named."""
    (run,) = fit(make_store(), "lda")

    def make(model, clf="softmax", n_epochs=250, layer=None, weights="IMAGENET1K_V1"):
        record = run.record.to_dict()
        record["selection"] |= {
            "model": model,
            "layers": [layer or FINAL[model]],
            "weights": weights,
        }
        record["fit"] |= {"clf": clf, "n_epochs": n_epochs}
        name = f"{model}-{layer}-{n_epochs}-{clf}-{weights}"
        altered = RunRecord.model_validate(record)
        own = replace(run, path=run.path.with_name(name), record=altered)
        # 250 epochs each: their number alone tells nothing.
        vars(own)["curves"] = {k: v * 125 for k, v in CURVES.items()}
        return own

    return make


def drawn(monkeypatch, runs):
    """Return what each figure of a section shows, by heading."""
    shown = []
    page = Sections(None, "pca", None)
    monkeypatch.setattr(page, "_svg", lambda *_: "")
    monkeypatch.setattr("featstore.runs.charts.draw_curves", lambda curves: shown.append([*curves]))
    headings = [group["heading"].partition(": ")[2] for group in page._curves("t", "t", runs)]
    return list(zip(headings, shown, strict=True))


def test_figures_4_and_5_are_of_the_run_that_the_study_makes(make_run, monkeypatch):
    others = [
        make_run("resnet50", n_epochs=None),
        make_run("resnet50", layer="conv1"),
        make_run("resnet50", weights="random:0"),
        make_run("resnet50", n_epochs=249),
        make_run("resnet50", clf="mlp"),
    ]
    assert [heading for heading, _ in drawn(monkeypatch, others)] == ["", ""]
    found = drawn(monkeypatch, [*others, make_run("resnet50")])
    assert found[0] == ("the paper's Figures 4 and 5", ["resnet50 fc1000"])
    assert len(found) == 3


def test_figures_6a_and_6b_are_of_the_papers_networks(make_run, monkeypatch):
    runs = [
        make_run("pixelstats"),
        make_run("alexnet"),
        make_run("vgg19", layer="conv1_1"),
        make_run("resnet50"),
    ]
    assert drawn(monkeypatch, runs) == [
        ("the paper's Figures 4 and 5", ["resnet50 fc1000"]),
        ("the paper's Figures 6a and 6b", ["alexnet fc8", "resnet50 fc1000"]),
        ("", ["pixelstats stats", "vgg19 conv1_1"]),
    ]
