from __future__ import annotations

import pytest
from makers import recorded

from featstore.progress import SILENT
from featstore.report import sections
from featstore.report.sections import Sections
from featstore.runs.ranking import Ranking

CURVES = {"loss": [1.0, 0.5], "accuracy": [0.5, 0.9], "validation_accuracy": []}
FINAL = {"resnet50": "fc1000", "alexnet": "fc8", "vgg19": "fc8", "pixelstats": "stats"}


@pytest.fixture
def make_run(run):
    """Make runs of curves, on features as if they were of the networks named."""

    def make(model, clf="softmax", n_epochs=250, layer=None, weights="IMAGENET1K_V1"):
        record = run.record.to_dict()
        record["selection"] |= {
            "model": model,
            "layers": [layer or FINAL[model]],
            "weights": weights,
        }
        record["fit"] |= {"clf": clf, "n_epochs": n_epochs}
        name = f"{model}-{layer}-{n_epochs}-{clf}-{weights}"
        record["selection"]["digest"] = name
        own = recorded(run, record, name)
        # 250 epochs each: their number alone tells nothing.
        vars(own)["curves"] = {k: v * 125 for k, v in CURVES.items()}
        return own

    return make


def drawn(monkeypatch, runs):
    """Return the lines of each figure of training, by heading."""
    shown = []
    page = Sections(None, "pca", None, SILENT)
    monkeypatch.setattr(page, "_svg", lambda *_: "")
    monkeypatch.setattr(sections, "draw_curves", lambda curves, scoring: shown.append([*curves]))
    figures = page._curves("t", "t", Ranking(runs))
    headings = [figure["heading"].partition(": ")[2] for figure in figures]
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
    assert found[0] == (
        "the paper's Figures 4 and 5",
        ["resnet50 fc1000 · softmax (250 epochs)"],
    )
    assert len(found) == 3


def test_figures_6a_and_6b_are_of_the_papers_networks(make_run, monkeypatch):
    runs = [
        make_run("pixelstats"),
        make_run("alexnet"),
        make_run("vgg19", layer="conv1_1"),
        make_run("resnet50"),
    ]
    assert drawn(monkeypatch, runs) == [
        ("the paper's Figures 4 and 5", ["resnet50 fc1000 · softmax"]),
        ("the paper's Figures 6a and 6b", ["alexnet fc8 · softmax", "resnet50 fc1000 · softmax"]),
        ("", ["pixelstats stats · softmax", "vgg19 conv1_1 · softmax"]),
    ]


def test_curves_of_random_weights_are_named_so(make_run, monkeypatch):
    runs = [make_run("alexnet", "mlp"), make_run("alexnet", "mlp", weights="random:0")]
    ((_, names),) = drawn(monkeypatch, runs)
    assert names == ["alexnet (random:0) fc8 · mlp", "alexnet fc8 · mlp"]


def test_too_few_test_images_are_not_drawn(store, run, monkeypatch):
    monkeypatch.setattr(sections, "spread", lambda y, splits, limit: [0, 1])
    page = Sections(store, "pca", None, SILENT)
    found, why = page._features(Ranking([run]).lines[0], run, "n", "f")
    assert (found, why) == (None, "There are too few test images to draw.")
