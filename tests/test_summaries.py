from __future__ import annotations

import statistics

from conftest import add_features, blobs

from featstore.fitting import fit
from featstore.summaries import compare_published, gather_repeats, summarize


def test_runs_are_listed_by_dataset_the_best_first(make_store):
    store = make_store(dataset="folder", title="b")
    runs = fit(store, ["logreg", "knn", "ridge"], n_jobs=1)
    lines = summarize(runs)
    assert sorted(line["run_id"] for line in lines) == sorted(run.run_id for run in runs)
    accuracies = [line["accuracy"] for line in lines]
    assert accuracies == sorted(accuracies, reverse=True)


def test_repeats_become_one_line(make_store):
    lines = [run.summary() for run in fit(make_store(), ["lda", "knn"], n_jobs=1, repeats=3)]
    gathered = gather_repeats(lines)
    assert [(line["clf"], line["n_repeats"]) for line in gathered] == [("lda", 3), ("knn", 3)]
    own = [line["accuracy"] for line in lines if line["clf"] == "lda"]
    assert gathered[0]["accuracy"] == statistics.fmean(own)
    assert gathered[0]["accuracy_deviation"] == statistics.stdev(own)


def test_random_weights_are_not_set_beside_the_paper(make_store):
    store = make_store(dataset="ucmerced", weights="IMAGENET1K_V2")
    X, y = blobs(320, 20)
    splits = (y * 0).astype("uint8")
    splits[240:] = 1
    add_features(store, {"fc8": X}, y, splits, model="alexnet", dataset="ucmerced")
    runs = fit(store, model="resnet50") + fit(store, model="alexnet")
    lines = {line["method"]: line for line in compare_published("ucmerced", runs)}
    assert "ours" in lines["ResNet50 features (proposed)"]
    assert "ours" not in lines["AlexNet features"]
    assert compare_published("folder", runs) == []
