from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
from conftest import add_features, blobs

from featstore.fitting.fit import fit
from featstore.report.summaries import compare_published, gather_repeats, group_by_images, summarize
from featstore.store.format.run_schema import RunRecord


def test_runs_are_listed_by_dataset_the_best_first(make_store):
    store = make_store(dataset="folder", title="b")
    runs = fit(store, ["logreg", "knn", "ridge"], n_jobs=1)
    lines = summarize(runs)
    assert sorted(line["run_id"] for line in lines) == sorted(run.run_id for run in runs)
    accuracies = [line["accuracy"] for line in lines]
    assert accuracies == sorted(accuracies, reverse=True)


def test_runs_of_one_name_tell_in_what_they_differ(make_store):
    store = make_store()
    runs = fit(store, "ridge", n_jobs=1)
    runs += fit(store, "ridge", n_jobs=1, params={"alpha": 10.0}) + fit(store, "lda", n_jobs=1)
    settings = {(run["clf"], run["settings"]) for run in summarize(runs)}
    assert settings == {("ridge", ""), ("ridge", "alpha=10.0"), ("lda", "")}
    assert [run["settings"] for run in summarize(runs[:1])] == [""]
    record = RunRecord.model_validate(runs[0].record.to_dict() | {"source": "another"})
    other = replace(runs[0], path=runs[0].path.with_name("mine-ridge-01234567"), record=record)
    settings = [run["settings"] for run in summarize([runs[0], other])]
    assert sorted(settings) == sorted(["01234567", runs[0].run_id[-8:]])
    assert [run["settings"] for run in summarize(fit(store, "knn", n_jobs=1, repeats=2))] == [
        ""
    ] * 2


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


def line(series="a", seed=0, split_seed=None, created="2024-01-01", **more):
    numbers = dict.fromkeys(("accuracy", "average_accuracy", "train_accuracy", "kappa"), 0.5)
    told = {"series": series, "seed": seed, "split_seed": split_seed, "created": created}
    return {**numbers, "cv_accuracy": None, "duration_s": 1.0, "converged": True, **told, **more}


def test_of_the_same_seeds_the_newest_counts():
    old, new = line(accuracy=0.9), line(created="2024-01-02", accuracy=0.4)
    for lines in ([old, new], [new, old]):
        (gathered,) = gather_repeats(lines)
        assert (gathered["accuracy"], gathered["n_repeats"]) == (0.4, 1)
    (gathered,) = gather_repeats([old, new, line(seed=1, accuracy=0.6), line(split_seed=1)])
    assert (gathered["accuracy"], gathered["n_repeats"]) == (0.5, 3)


def test_images_of_one_name_are_told_apart(make_store):
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
