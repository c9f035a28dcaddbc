from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import add_features, blobs, store_in

from featstore.fitting.fit import fit
from featstore.report import result_tables
from featstore.report.paper import ROLES, study_layers
from featstore.report.summaries import compare_published, group_by_images
from featstore.store.format.run_schema import RunRecord


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A store with the three layers of two networks, and runs on each and on all."""
    runs, store = [], None
    for seed, model in enumerate(("resnet50", "alexnet")):
        layers = study_layers(model)
        X, y = blobs(320, 12, seed=seed)
        parts = {name: X[:, i * 4 : i * 4 + 4] for i, name in enumerate(layers.names)}
        more = {"dataset": "sat4", "model": model, "weights": "IMAGENET1K_V1"}
        if seed:
            splits = (y * 0).astype("uint8")
            splits[240:] = 1
            add_features(store, parts, y, splits, **more)
        else:
            store = store_in(tmp_path_factory.mktemp("studied"), layers=parts, **more)
        runs += fit(store, model=model, layers=list(layers.selections))
    return store, runs


def test_layers_stand_beside_their_combination(studied):
    _, runs = studied
    table = result_tables.layers_table("layers", "sat4", runs)
    assert [name for name, _ in table.columns] == ["network", "classifier", *ROLES]
    assert [row[0].text for row in table.rows] == ["alexnet", "resnet50"]
    for row in table.rows:
        own = [r for r in runs if r.selection.model == row[0].text]
        values = [run.metrics.test.accuracy for run in own]
        assert [cell.value for cell in row[2:]] == values
        assert {cell.value for cell in row[2:] if cell.is_best} == {max(values)}
        assert [cell.detail for cell in row[2:]] == [*study_layers(row[0].text).names, ""]


def test_one_layer_is_no_comparison(studied):
    _, runs = studied
    assert result_tables.layers_table("layers", "sat4", runs[:1]) is None
    two = result_tables.layers_table("layers", "sat4", runs[:2])
    assert [cell.text for cell in two.rows[0][4:]] == ["–", "–"]


def test_table_4_has_a_column_of_ours_where_there_are_runs(studied):
    _, runs = studied
    table = result_tables.published_table({"sat4": compare_published("sat4", runs)})
    names = [name for name, _ in table.columns]
    ours_on_sat4 = ["ours on SAT-4", "difference on SAT-4"]
    assert names == ["method", "SAT-4", *ours_on_sat4, "SAT-6", "UC Merced"]
    rows = {row[0].text: dict(zip(names, row, strict=True)) for row in table.rows}
    assert len(rows) == 7
    ours = max(r.metrics.test.accuracy for r in runs if r.selection.model == "alexnet")
    assert rows["AlexNet features"]["ours on SAT-4"].value == ours
    assert rows["AlexNet features"]["difference on SAT-4"].value == pytest.approx(ours - 0.84)
    assert rows["VGG19 features"]["ours on SAT-4"].text == "–"
    assert rows["DeepSat (Basu et al. 2015)"]["UC Merced"].text == "–"
    assert "ResNet50 on SAT-4 (240 to train, 80 to test)" in table.note
    assert result_tables.published_table({}) is None


def test_table_4_keeps_each_datasets_difference_in_json(studied):
    _, runs = studied
    both = {name: compare_published(name, runs) for name in ("sat4", "ucmerced")}
    row = result_tables.published_table(both).to_dict()["rows"][-1]
    for dataset, short in (("sat4", "SAT-4"), ("ucmerced", "UC Merced")):
        assert row[f"difference on {short}"] == both[dataset][-1]["difference"]


def test_datasets_are_set_beside_table_3(studied):
    _, runs = studied
    (row,) = result_tables.datasets_table(group_by_images(runs)).rows
    assert [cell.text for cell in row] == [
        "sat4",
        "4",
        "240",
        "80",
        "60",
        "test",
        "400,000 + 100,000",
    ]


def test_throughput_is_of_whole_passes(studied):
    store, runs = studied
    table = result_tables.throughput_table(store, runs)
    assert len(table.rows) == 6  # These layers were not completed together.
    assert {row[5].text for row in table.rows} == {"160.0"}
    for feature_set in store.sets():
        store.remove(feature_set)
    assert result_tables.throughput_table(store, runs) is None


def test_repeats_are_one_row_with_their_spread(make_store):
    runs = fit(make_store(), ["lda"], n_jobs=1, repeats=3)
    (row,) = result_tables.runs_table("runs", "demo", runs).rows
    assert row[2].text == "lda × 3"
    assert "±" in row[3].text


def altered(run, *, preprocess=None, rows=None, **fit):
    """Return a run as if it had been asked for otherwise."""
    record = run.record.to_dict()
    for part in record["selection"]["features"]:
        part["preprocess"] |= preprocess or {}
    record["selection"]["digest"] += f"{preprocess}{rows}"
    record["fit"] |= fit
    record["rows"] |= rows or {}
    record["metrics"]["test"]["accuracy"] = 1.0
    path = run.path.with_name(f"{run.run_id}-altered")
    return replace(run, path=path, record=RunRecord.model_validate(record))


def test_layers_of_other_rows_are_not_set_side_by_side(studied):
    _, runs = studied
    own = [run for run in runs if run.selection.model == "alexnet"]
    few = [altered(run, rows={"n_train": 40, "n_test": 12}) for run in own]
    (row,) = result_tables.layers_table("layers", "sat4", [*own, few[0]]).rows
    assert [cell.value for cell in row[2:]] == [r.metrics.test.accuracy for r in own]
    assert row[1].detail == ""
    rows = result_tables.layers_table("layers", "sat4", [*own, *few[:2]]).rows
    assert [row[1].detail for row in rows] == [
        "40 to train, 12 to test",
        "240 to train, 80 to test",
    ]


@pytest.mark.parametrize(
    ("how", "column", "details"),
    [
        ({"preprocess": {"bands": "gray"}}, 0, ["gray", "red,green,blue"]),
        ({"preprocess": {"image_size": 64}}, 0, ["32 px", "64 px"]),
        ({"params": {"C": 2}}, 1, ["", "C=2"]),
        ({"n_epochs": 250}, 1, ["", "250 epochs"]),
        (
            {"search": "grid", "cv": 3, "grid": {"C": [1, 2]}},
            1,
            ["", "grid search, C: [1, 2], 3 folds"],
        ),
    ],
)
def test_runs_that_were_asked_otherwise_stand_apart_and_say_so(studied, how, column, details):
    _, runs = studied
    own = [run for run in runs if run.selection.model == "alexnet"]
    usual = [run.metrics.test.accuracy for run in own]
    # One alone is no comparison, and takes no cell of the others.
    (row,) = result_tables.layers_table("layers", "sat4", [*own, altered(own[2], **how)]).rows
    assert [cell.value for cell in row[2:]] == usual
    assert (row[0].detail, row[1].detail) == ("", "")
    both = [*runs, *(altered(run, **how) for run in own)]
    table = result_tables.layers_table("layers", "sat4", both)
    rows = [row for row in table.rows if row[0].text == "alexnet"]
    assert sorted(row[column].detail for row in rows) == details
    assert sorted([cell.value for cell in row[2:]] for row in rows) == sorted([usual, [1.0] * 4])
    listed = result_tables.runs_table("runs", "sat4", [own[2], altered(own[2], **how)])
    place = {0: 0, 1: 2}[column]
    assert sorted(row[place].detail for row in listed.rows) == details
    labels = [[row[name] for name in ("model", "classifier")] for row in listed.to_dict()["rows"]]
    assert labels[0] != labels[1]
