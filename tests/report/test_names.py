from __future__ import annotations

import copy

import pytest
from makers import altered, recorded

from featstore.report.summaries import describe_run
from featstore.runs.names import name_fits
from featstore.runs.ranking import Ranking


def names_of(*runs):
    found = name_fits(runs)
    return [found[run.series][0] for run in runs]


def test_one_fit_needs_no_settings(run):
    assert names_of(run) == ["resnet50 fc1000 · ridge"]
    assert names_of(*(altered(run, seed=i) for i in range(2))) == ["resnet50 fc1000 · ridge"] * 2


def test_random_weights_never_have_the_name_of_trained_ones(run):
    random = altered(run, selection={"weights": "random:0"})
    both = altered(run, selection={"weights": "IMAGENET1K_V2+random:0", "model": "a+b"})
    assert names_of(run, random, both) == [
        "resnet50 fc1000 · ridge",
        "resnet50 (random:0) fc1000 · ridge",
        "a+b (IMAGENET1K_V2+random:0) fc1000 · ridge",
    ]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"preprocess": {"bands": "gray"}}, ["red,green,blue", "gray"]),
        ({"preprocess": {"image_size": 64}}, ["32 px", "64 px"]),
        ({"params": {"alpha": 2}}, ["", "alpha=2"]),
        ({"n_epochs": 250}, ["", "250 epochs"]),
        (
            {"search": "grid", "cv": 3, "grid": {"C": [1, 2]}},
            ["", "grid search, C: [1, 2], 3 folds"],
        ),
        (
            {"search": "halving", "cv": 3, "n_candidates": 9},
            ["", "halving search, 3 folds, 9 cand"],
        ),
        ({"rows": {"n_train": 40}}, ["240 to train, 80 to test", "40 to train, 80 to test"]),
        ({"device": "cuda"}, ["", "cuda"]),
        ({"drop_leaks": True}, ["", "leaks left out"]),
    ],
)
def test_fits_of_one_name_have_the_settings_in_which_they_differ(run, how, told):
    names = names_of(run, altered(run, **how))
    for name, settings in zip(names, told, strict=True):
        assert name.startswith(f"resnet50 fc1000 · ridge ({settings}" if settings else "resnet50")
    assert names[0] != names[1]


def test_fits_that_differ_in_nothing_else_have_digits_of_their_runs(run):
    record = run.record.to_dict()
    record["source"] = "another"
    other = recorded(run, record, "mine-ridge-01234567")
    assert names_of(run, other) == [
        f"resnet50 fc1000 · ridge ({run.run_id[-8:]})",
        "resnet50 fc1000 · ridge (01234567)",
    ]


def test_the_facts_say_how_images_were_read(run):
    assert describe_run(run)["facts"]["images read as"] == "red,green,blue, 32 px"
    record = run.record.to_dict()
    (part,) = record["selection"]["features"]
    part["pool"] = "avg"
    gray = copy.deepcopy(part) | {"set_id": "other", "pool": "max"}
    gray["preprocess"] |= {"bands": "gray", "image_size": None}
    record["selection"]["features"].append(gray)
    both = recorded(run, record)
    assert describe_run(both)["facts"]["images read as"] == (
        f"{part['set_id']}: red,green,blue, 32 px, maps pooled by avg; "
        "other: gray, in their own size, maps pooled by max"
    )
    assert both.outline.features["bands"] == "red,green,blue+gray"


@pytest.mark.parametrize(
    ("rows", "text"),
    [({"n_leaked": 2}, "; 2 test images are also"), ({"n_dropped": 3}, ", and 3 test images that")],
)
def test_the_facts_say_what_leaks(run, rows, text):
    assert text in describe_run(altered(run, rows=rows))["facts"]["rows"]


def test_settings_at_their_defaults_are_empty(run):
    assert set(run.outline.fit.values()) == {""}


def test_names_are_those_of_all_tables_and_figures(run, monkeypatch):
    """Each way out of a report has the names of the ranking, and no other."""
    from featstore.report import result_tables
    from featstore.report.charts import draw_scores

    runs = [
        altered(run, n_right=70, selection={"weights": "random:0"}),
        altered(run, n_right=75),
        altered(run, n_right=72, params={"alpha": 2}),
    ]
    ranking = Ranking(runs)
    names = [line["name"] for line in ranking.lines]
    assert len(set(names)) == 3
    table = result_tables.runs_table("runs", "demo", ranking)
    assert [row["run"] for row in table.to_dict()["rows"]] == names
    assert all(name in table.to_markdown() for name in names)
    ticks = draw_scores(ranking.lines).axes[0].get_yticklabels()
    assert [tick.get_text().replace("\n", " ") for tick in ticks] == names
