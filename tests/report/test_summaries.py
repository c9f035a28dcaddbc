from __future__ import annotations

import numpy as np
import pytest
from conftest import add_features, blobs
from makers import altered

from featstore.errors import RunError
from featstore.fitting.fit import fit
from featstore.report.summaries import best_fits, summarize
from featstore.runs.names import group_by_images, runs_on


def test_rows_are_ordered_by_dataset_the_best_first(run):
    others = {"title": "b", "fingerprint": "other"}
    runs = [
        altered(run, n_right=50, digest="a"),
        altered(run, n_right=79, digest="b"),
        altered(run, n_right=60, selection=others),
    ]
    lines = summarize(runs)
    assert [line["title"] for line in lines] == ["b", "sat4", "sat4"]
    assert [round(80 * line["accuracy"]) for line in lines] == [60, 79, 50]
    assert [line["is_best"] for line in lines] == [True, True, False]
    assert not any(line["is_equal"] for line in lines)
    assert [(best.title, best.run.run_id) for best in best_fits(runs)] == [
        ("b", runs[2].run_id),
        ("sat4", runs[1].run_id),
    ]


def test_equal_rows_say_so(run):
    lines = summarize([altered(run, n_right=n, digest=str(n)) for n in (74, 75)])
    assert sorted((line["is_best"], line["is_equal"]) for line in lines) == [
        (False, True),
        (True, False),
    ]


def test_runs_on_a_dataset_are_found_by_its_name_or_title(run):
    other = altered(run, selection={"dataset": "folder", "title": "mine"})
    assert runs_on([run, other], "mine") == runs_on([run, other], "folder") == [other]
    with pytest.raises(RunError, match="No runs are on 'x'. There are runs on mine, sat4"):
        runs_on([run, other], "x")
    with pytest.raises(RunError, match="There are none"):
        runs_on([], "x")


@pytest.mark.usefixtures("blank_pictures")
def test_images_of_one_name_have_digits_in_their_titles(make_store):
    store = make_store(title="photos")
    X, y = blobs(200, 20)
    splits = (np.arange(200) >= 150).astype("uint8")
    add_features(store, {"fc1000": X}, y, splits, title="photos", model="alexnet")
    add_features(store, {"fc1000": X}, y, splits, title="others", model="alexnet")
    runs = [fit(store, "lda", set_id=one.set_id)[0] for one in store.sets()]
    groups = group_by_images(runs)
    assert len(groups) == 3
    assert [len(own) for own in groups.values()] == [1, 1, 1]
    assert "others" in groups
    assert sum(title.startswith("photos (images ") for title in groups) == 2
