from __future__ import annotations

import pytest
from conftest import add_features, blank_figures, blobs, store_in
from makers import altered, recorded

from featstore.fitting.fit import fit
from featstore.report import result_tables
from featstore.report.paper import ROLES, study_layers
from featstore.report.summaries import compare_published
from featstore.runs.names import group_by_images
from featstore.runs.ranking import Ranking
from featstore.text import NONE


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A store with the three layers of two networks, and runs on each and on all."""
    runs, store = [], None
    with blank_figures():
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
            selections = list(layers.selections)
            runs += fit(store, "lda", model=model, layers=selections, n_jobs=1)
    return store, runs


def accuracy(run):
    return run.metrics.test.accuracy


def test_layers_stand_beside_their_combination(studied):
    _, runs = studied
    table = result_tables.layers_table("layers", "sat4", Ranking(runs))
    assert [name for name, _ in table.columns] == ["network", "classifier", *ROLES]
    assert [row[0].text for row in table.rows] == ["alexnet", "resnet50"]
    for row in table.rows:
        own = [r for r in runs if r.selection.model == row[0].text]
        values = [accuracy(run) for run in own]
        assert [cell.value for cell in row[2:]] == values
        assert [cell.detail for cell in row[2:]] == [*study_layers(row[0].text).names, ""]
        # Bold: the highest, and no cell that is clearly worse.
        bold = [cell.value for cell in row[2:] if cell.is_best]
        assert max(values) in bold
        assert all(max(values) - value < 0.1 for value in bold)


def test_one_layer_is_no_comparison(studied):
    _, runs = studied
    assert result_tables.layers_table("layers", "sat4", Ranking(runs[:1])) is None
    two = result_tables.layers_table("layers", "sat4", Ranking(runs[:2]))
    assert [cell.text for cell in two.rows[0][4:]] == ["–", "–"]
    assert [name for name, _ in two.shown().columns] == ["network", "classifier", *ROLES[:2]]


def test_of_a_layer_fitted_twice_the_latest_counts(studied):
    _, runs = studied
    own = [run for run in runs if run.selection.model == "alexnet"]
    newer = altered(own[2], n_right=7, digest="newer", created="2999-01-01")
    for given in ([*own, newer], [newer, *own]):
        (row,) = result_tables.layers_table("layers", "sat4", Ranking(given)).rows
        assert row[4].value == 7 / 80


def test_table_4_has_a_column_of_ours_for_datasets_with_runs(studied):
    _, runs = studied
    table = result_tables.published_table({"sat4": compare_published("sat4", runs)})
    names = [name for name, _ in table.columns]
    ours_on_sat4 = ["ours on SAT-4", "difference on SAT-4"]
    assert names == ["method", "SAT-4", *ours_on_sat4, "SAT-6", "UC Merced"]
    rows = {row[0].text: dict(zip(names, row, strict=True)) for row in table.rows}
    assert len(rows) == 7
    three = ",".join(study_layers("alexnet").names)
    (run,) = [run for run in runs if ",".join(run.selection.layers) == three]
    cell = rows["AlexNet features"]["ours on SAT-4"]
    assert (cell.value, cell.run_id) == (accuracy(run), run.run_id)
    assert cell.detail == "alexnet conv1+conv4+fc8 · lda"
    difference = rows["AlexNet features"]["difference on SAT-4"].value
    assert difference == pytest.approx(accuracy(run) - 0.84)
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


def test_a_study_has_table_4_and_a_comparison_of_layers_for_each_dataset(studied):
    store, runs = studied
    own = [altered(run, selection={"dataset": "folder", "title": "mine"}) for run in runs]
    titles = [table.title for table in result_tables.study_tables([*runs, *own], store)]
    layers = "Early, deep and final layers on"
    assert titles == ["Beside the published results", f"{layers} sat4", f"{layers} mine"]


def test_datasets_are_set_beside_table_3(studied):
    _, runs = studied
    table = result_tables.datasets_table(group_by_images(runs))
    (row,) = table.rows
    texts = ["sat4", "4", "240", "80", "60", "test", "400,000 + 100,000"]
    assert [cell.text for cell in row] == texts
    assert "Table 3" in table.note


def test_images_that_are_none_of_the_papers_have_no_column_of_its_table_3(run):
    mine = altered(run, selection={"dataset": "folder", "title": "mine"})
    assert result_tables.datasets_table({"mine": [mine]}) is None
    other = altered(run, selection={"dataset": "folder", "title": "b"}, rows={"n_train": 7})
    table = result_tables.datasets_table({"mine": [mine], "b": [other]})
    assert "Table 3" not in table.note
    shown = [name for name, _ in table.shown().columns]
    assert shown == ["dataset", "train"]


def test_throughput_is_of_whole_passes(studied):
    store, runs = studied
    table = result_tables.throughput_table(store, runs)
    assert len(table.rows) == 6  # These layers were not completed together.
    assert {row[5].text for row in table.rows} == {"160.0"}
    assert result_tables.throughput_table(store_in(store.path.parent / "new"), runs) is None


def test_repeats_are_one_row_with_their_spread(run):
    runs = [altered(run, n_right=n, seed=n, split_seed=n) for n in (70, 72, 77)]
    table = result_tables.runs_table("runs", "demo", Ranking(runs))
    (row,) = table.rows
    assert (row[0].text, row[0].detail) == ("resnet50 fc1000 · ridge", "3 repeats")
    assert (row[1].text, row[1].value) == ("91.2 ± 4.5", pytest.approx(73 / 80))
    assert "± the deviation of repeats" in table.note


def test_columns_that_tell_nothing_are_left_out(run):
    runs = [altered(run, n_right=n, digest=str(n)) for n in (70, 60)]
    table = result_tables.runs_table("runs", "demo", Ranking(runs))
    columns = [name for name, _ in table.columns]
    # As many test images of each class make the average the accuracy.
    assert columns[:5] == ["run", "accuracy", "95 % interval", "CV", "kappa"]
    shown = table.shown()
    assert [name for name, _ in shown.columns] == ["run", "accuracy", "kappa"]
    # The records of both rows have the intervals of one run.
    assert "The same in all rows: 95 % interval" in shown.note
    assert ", training" in shown.note
    assert "train 240, test 80" in shown.note
    assert "CV" not in shown.note
    record = runs[0].record.to_dict()
    record["metrics"]["test"]["average_accuracy"] = 0.5
    runs = [recorded(runs[0], record), *runs[1:]]
    assert result_tables.runs_table("runs", "demo", Ranking(runs)).columns[3][0] == "average"


def test_layers_of_other_rows_are_not_set_side_by_side(studied):
    _, runs = studied
    own = [run for run in runs if run.selection.model == "alexnet"]
    few = [altered(run, rows={"n_train": 40, "n_test": 12}) for run in own]
    (row,) = result_tables.layers_table("layers", "sat4", Ranking([*own, few[0]])).rows
    assert [cell.value for cell in row[2:]] == [accuracy(run) for run in own]
    assert row[1].detail == ""
    rows = result_tables.layers_table("layers", "sat4", Ranking([*own, *few[:2]])).rows
    assert [row[1].detail for row in rows] == [
        "40 to train, 12 to test",
        "240 to train, 80 to test",
    ]


@pytest.mark.parametrize(
    ("how", "column", "details"),
    [
        ({"preprocess": {"bands": "gray"}}, 0, ["gray", "red,green,blue"]),
        ({"params": {"C": 2}}, 1, ["", "C=2"]),
    ],
)
def test_runs_with_other_settings_stand_apart_and_say_so(studied, how, column, details):
    _, runs = studied
    own = [run for run in runs if run.selection.model == "alexnet"]
    usual = [accuracy(run) for run in own]
    # One alone is no comparison, and takes no cell of the others.
    one = altered(own[2], n_right=80, **how)
    (row,) = result_tables.layers_table("layers", "sat4", Ranking([*own, one])).rows
    assert [cell.value for cell in row[2:]] == usual
    assert (row[0].detail, row[1].detail) == ("", "")
    both = [*runs, *(altered(run, n_right=80, **how) for run in own)]
    table = result_tables.layers_table("layers", "sat4", Ranking(both))
    rows = [row for row in table.rows if row[0].text == "alexnet"]
    assert sorted(row[column].detail for row in rows) == details
    assert sorted([cell.value for cell in row[2:]] for row in rows) == sorted([usual, [1.0] * 4])
    listed = result_tables.runs_table("runs", "sat4", Ranking([own[2], one]))
    assert len({row["run"] for row in listed.to_dict()["rows"]}) == 2


def test_the_split_stands_beside_the_scores(run):
    splits = ("random split", "grouped by column scene", "")
    runs = [
        altered(run, n_right=70 - i, digest=str(i), rows={"split": split})
        for i, split in enumerate(splits)
    ]
    shown = result_tables.runs_table("runs", "demo", Ranking(runs)).shown()
    at = [name for name, _ in shown.columns].index("split")
    assert [row[at].text for row in shown.rows] == ["random", "grouped by column scene", NONE]
    assert "a random split tests on neighbors" in shown.note
