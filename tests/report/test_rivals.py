from __future__ import annotations

import pytest
from conftest import add_features, blobs, measured, store_in, tagged
from makers import altered

from featstore.fitting.fit import fit
from featstore.report import paper
from featstore.report.rivals import rivals_table
from featstore.report.summaries import compare_published
from featstore.runs.compare import compare
from featstore.runs.ranking import Ranking
from featstore.text import NONE

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def rivals(tmp_path):
    """Return a store and the runs of the paper's method, of SatCNN and of pixel statistics."""
    X, y = blobs(320, 12)
    layers = paper.study_layers("resnet50")
    parts = {name: X[:, i * 4 : i * 4 + 4] for i, name in enumerate(layers.names)}
    sat4 = {"dataset": "sat4", "weights": "file:some"}
    store = store_in(tmp_path, layers=parts, model="resnet50", **sat4)
    splits = store.sets()[0].splits
    runs = fit(store, "lda", model="resnet50", layers=list(layers.selections), n_jobs=1)
    for model, layer, width in (("satcnn", "pool", 6), ("pixelstats", "stats", 1)):
        add_features(store, {layer: X[:, :width]}, y, splits, model=model, **sat4)
        runs += fit(store, "lda", model=model, n_jobs=1)
    return store, runs


def test_rivals_stand_beside_the_papers_method(rivals):
    store, runs = rivals
    table = rivals_table("rivals", "sat4", Ranking(runs), store)
    names = [name for name, _ in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    assert [row["method"].text for row in rows] == [
        "The paper's method",
        "After SatCNN (Zhong et al. 2017)",
        "Pixel statistics",
    ]
    whole, satcnn, pixels = (runs[at] for at in (3, 4, 5))
    assert [row["method"].run_id for row in rows] == [whole.run_id, satcnn.run_id, pixels.run_id]
    assert [row["published"].text for row in rows] == ["95.8", "99.65", NONE]
    compared = compare(satcnn, whole)
    assert rows[1]["difference"].value == pytest.approx(compared.difference)
    assert rows[1]["p"].text == f"{compared.p_value:.2g}"
    assert rows[0]["difference"].text == NONE
    low, high = (float(text) for text in rows[1]["95 % interval"].text.split(" to "))
    assert low < rows[1]["ours"].value * 100 <= high
    # Nobody knows what training the weights took.
    assert rows[1]["network (s)"].text == NONE
    # What is not known of the letter, and what the numbers are worth.
    assert "SatCNN: a small network" in table.note
    assert "DeepSat" not in table.note
    assert "99.60 %" in table.note


def test_without_a_rival_there_is_no_table(rivals):
    store, runs = rivals
    assert rivals_table("rivals", "sat4", Ranking([*runs[:4], runs[5]]), store) is None


def test_images_with_several_classes_or_numbers_have_no_table(tmp_path):
    for store, clf in ((tagged(tmp_path / "tags"), "triplet"), (measured(tmp_path / "m"), "knn")):
        runs = fit(store, clf, n_jobs=1)
        satcnn = [altered(run, selection={"model": "satcnn"}) for run in runs]
        assert rivals_table("rivals", "mine", Ranking(satcnn), store) is None


def test_a_rival_is_ours_in_table_4(rivals):
    _, runs = rivals
    found = {line["method"]: line for line in compare_published("sat4", runs)}
    assert found["SatCNN, agile CNN (Zhong et al. 2017)"]["run_id"] == runs[4].run_id
    assert "ours" not in found["DeepSat (Basu et al. 2015)"]


@pytest.mark.parametrize(
    ("model", "clf", "method"),
    [
        ("deepsat", "dbn", "deepsat"),
        ("deepsat", "logreg", ""),
        ("satcnn", "logreg", "satcnn"),
        ("triplet:satcnn", "linear-svm", "triplet"),
        ("resnet50", "triplet", "triplet"),
        ("resnet50_v1", "logreg", "resnet50"),
    ],
)
def test_model_and_classifier_give_the_method(model, clf, method):
    assert paper.method_of(model, clf) == method
