from __future__ import annotations

import statistics

import numpy as np
import pytest
from conftest import add_features, blobs
from makers import altered, recorded
from scipy import stats

from featstore.errors import RunError
from featstore.fitting.fit import fit
from featstore.report.result_tables import runs_table
from featstore.report.summaries import compare_published, summarize
from featstore.runs.ranking import Ranking, by_group, resampled_p_value

LUCKY = (73, 70, 71, 71, 70, 72, 70, 69, 71, 73)
"""Of 80 test images, how many are right in each of ten splits."""


def repeats(run, n_right=LUCKY, **more):
    return [altered(run, n_right=n, seed=i, split_seed=i, **more) for i, n in enumerate(n_right)]


def test_repeats_are_one_row_of_their_mean_and_never_of_the_luckiest(run):
    runs = repeats(run)
    ranking = Ranking(runs)
    (line,) = ranking.lines
    accuracies = [n / 80 for n in LUCKY]
    assert line["accuracy"] == pytest.approx(statistics.fmean(accuracies))
    assert line["accuracy_deviation"] == pytest.approx(statistics.stdev(accuracies))
    assert (line["n_repeats"], line["ranked_by"]) == (10, "repeated splits")
    assert line["scores"] == accuracies
    # The mean is 71 right; the run that stands for the row is one of those.
    assert line["run_id"] == min(runs[i].run_id for i in (2, 3, 8))
    assert ranking.choice.best is line
    assert ranking.choice.text == (
        "88.8 ± 1.7 % are the mean and standard deviation of 10 repeats. Model, predictions and "
        "pictures are of the repeat nearest to the mean, with 88.8 %."
    )


def test_of_repeats_the_highest_mean_is_best_and_not_the_highest_score(run):
    lucky = repeats(run, (77, *[60, 61, 59] * 3), digest="lucky")
    steady = repeats(run, (75, *[74, 76, 75] * 3), digest="steady")
    choice = Ranking([*lucky, *steady]).choice
    assert choice.best["accuracy"] == pytest.approx(75 / 80)
    assert choice.equal == []
    assert "Chosen by the mean over its repeated splits." in choice.text


def test_repeats_that_no_test_tells_apart_are_equal(run):
    one = repeats(run, (75, 71, 74, 70, 75), digest="one")
    two = repeats(run, (71, 75, 70, 75, 72), digest="two")
    choice = Ranking([*one, *two]).choice
    assert choice.best["accuracy"] == pytest.approx(73 / 80)
    assert [line["accuracy"] for line in choice.equal] == [pytest.approx(72.6 / 80)]
    assert f"at 5 %: {choice.equal[0]['name']}." in choice.text


def test_cross_validation_counts_more_than_test_scores(run):
    high = altered(run, n_right=78, cv_accuracy=0.90, digest="high", params={"alpha": 1.0})
    low = altered(run, n_right=70, cv_accuracy=0.95, digest="low", params={"alpha": 2.0})
    ranking = Ranking([high, low])
    assert [line["cv_accuracy"] for line in ranking.lines] == [0.95, 0.90]
    assert ranking.choice.best["run_id"] == low.run_id
    assert ranking.choice.text.startswith("Chosen by cross-validation on the training images.")


def test_of_equal_single_runs_the_simplest_is_best_and_not_the_highest_score(run):
    wide = altered(run, n_right=76, n_features=1000, digest="wide")
    slim = altered(run, n_right=74, n_features=10, digest="slim")
    bad = altered(run, n_right=40, n_features=1, digest="bad")
    ranking = Ranking([bad, wide, slim])
    assert [line["n_features"] for line in ranking.lines] == [1000, 10, 1]
    choice = ranking.choice
    assert choice.best["run_id"] == slim.run_id
    assert [line["run_id"] for line in choice.equal] == [wide.run_id]
    assert choice.text.startswith("Chosen as the simplest of equal runs")
    assert choice.equal[0]["name"] in choice.text


def test_a_chosen_run_comes_before_an_equal_one_of_a_higher_test_score(run):
    lucky = altered(run, n_right=76, n_features=1, digest="lucky")
    searched = altered(run, n_right=74, cv_accuracy=0.93, digest="searched")
    choice = Ranking([lucky, searched]).choice
    assert choice.best["run_id"] == searched.run_id


def test_a_score_of_cross_validation_is_never_ranked_among_test_scores(run):
    searched = altered(run, n_right=60, cv_accuracy=0.99, digest="searched")
    better = altered(run, n_right=73, digest="better")
    ranking = Ranking([better, searched, *repeats(run)])
    assert [line["ranked_by"] for line in ranking.lines] == [
        "cross-validation",
        "repeated splits",
        "test",
    ]
    # The best of the first group, unless a test tells that a later group has a better one.
    assert ranking.best["n_repeats"] == 10
    better_than = "significantly better than the best by cross-validation."
    assert better_than in ranking.choice.text
    assert Ranking([better, searched]).best["run_id"] == better.run_id
    titles = [title for title, _ in by_group(ranking.lines, lambda line: "about")]
    assert titles[0].endswith(": about; ranked by cross-validation on the training images")
    note = runs_table("runs", "demo", ranking).note
    assert "Scores of two groups have no common order" in note


def test_what_did_not_converge_comes_after_its_equals(run):
    slim = altered(run, n_right=76, n_features=10, digest="slim")
    slim = recorded(slim, slim.record.to_dict() | {"converged": False})
    wide = altered(run, n_right=76, n_features=1000, digest="wide")
    assert Ranking([slim, wide]).choice.best["run_id"] == wide.run_id


def test_a_single_best_run_says_so(run):
    runs = [altered(run, n_right=n, digest=str(n)) for n in (79, 40)]
    choice = Ranking(runs).choice
    assert choice.equal == []
    assert choice.text == "A test tells all others from it, at 5 %."
    assert Ranking(runs[:1]).choice.text == ""


def test_predictions_are_read_only_where_they_can_decide(run, monkeypatch):
    near, far = (altered(run, n_right=n, digest=str(n)) for n in (78, 20))
    top = altered(run, n_right=79, digest="top")
    read = []
    monkeypatch.setattr(
        "featstore.runs.compare.p_value_of",
        lambda a, b: read.append(b.run_id) or 1.0,
    )
    assert len(Ranking([top, near, far]).choice.equal) == 1
    assert read == [near.run_id]


def test_the_best_of_many_equal_runs_needs_one_test(run, monkeypatch):
    runs = [altered(run, n_right=79 - i % 2, n_features=40 - i, digest=str(i)) for i in range(30)]
    read = []
    monkeypatch.setattr("featstore.runs.compare.p_value_of", lambda a, b: read.append(b) or 1.0)
    ranking = Ranking(runs)
    assert ranking.best["n_features"] == 11
    assert len(read) == 1
    assert len(ranking.choice.equal) == 29
    # The top of the table needs none, and no two are tested again.
    assert len(read) == 29


def test_a_limited_ranking_shows_the_first_rows_and_the_best(run):
    runs = [altered(run, n_right=79 - i, n_features=100 + i, digest=str(i)) for i in range(5)]
    slim = altered(run, n_right=75, n_features=1, digest="slim")
    whole, limited = Ranking([*runs, slim]), Ranking([*runs, slim], top=3)
    assert limited.lines == [*whole.lines[:3], whole.best]
    assert whole.best["run_id"] == slim.run_id
    assert (whole.n_left_out, limited.n_left_out) == (0, 2)
    assert (len(whole.choice.equal), len(limited.choice.equal)) == (5, 3)
    assert "Equal of the 4 shown, as no test tells them" in limited.choice.text
    assert "Equal, as no test tells them" in whole.choice.text
    assert [one.run_id for one in limited.shown_runs] == [x["run_id"] for x in limited.lines]


def test_runs_on_other_test_images_are_compared_by_their_intervals(run, monkeypatch):
    def damaged(a, b):
        raise RunError("predictions.csv is not what fit wrote")

    monkeypatch.setattr("featstore.runs.compare.p_value_of", damaged)
    runs = [altered(run, n_right=n, digest=str(n)) for n in (76, 74, 66)]
    assert [round(80 * line["accuracy"]) for line in Ranking(runs).choice.equal] in ([76], [74])
    # With repeats the deviation counts.
    split = repeats(run, (76, 76, 75, 76, 77), digest="split")
    single = altered(run, n_right=74, digest="single")
    assert len(Ranking([*split, single]).choice.equal) == 1


def test_seeds_of_the_classifier_alone_leave_one_split(run):
    runs = [altered(run, n_right=n, seed=i) for i, n in enumerate((70, 71, 72))]
    (line,) = Ranking(runs).lines
    assert (line["n_repeats"], line["ranked_by"]) == (3, "test")


def test_of_the_same_seeds_the_newest_counts(run):
    old = altered(run, n_right=79, created="2024-01-01")
    new = altered(run, n_right=40, created="2024-01-02")
    for runs in ([old, new], [new, old]):
        (line,) = Ranking(runs).lines
        assert (line["accuracy"], line["n_repeats"]) == (0.5, 1)


def test_the_resampled_t_test_is_nadeau_and_bengios():
    differences = [0.03, 0.01, 0.02, -0.01, 0.025]
    t = statistics.fmean(differences) / np.sqrt(statistics.variance(differences) * (1 / 5 + 3 / 7))
    assert resampled_p_value(differences, 3 / 7) == pytest.approx(2 * stats.t.sf(t, 4))
    assert resampled_p_value([0.1, 0.1], 0.5) == 0
    assert resampled_p_value([0.0, 0.0], 0.5) == 1


@pytest.mark.usefixtures("blank_pictures")
def test_repeats_of_fit_are_one_row(make_store):
    runs = fit(make_store(160), ["lda", "knn"], n_jobs=1, repeats=3, split_seed=0)
    lines = summarize(runs)
    assert {line["ranked_by"] for line in lines} == {"repeated splits"}
    assert [line["n_repeats"] for line in lines] == [3, 3]
    own = [run.metrics.test.accuracy for run in runs if run.clf == "lda"]
    (lda,) = [line for line in lines if line["clf"] == "lda"]
    assert lda["accuracy"] == statistics.fmean(own)
    assert sorted(lda["scores"]) == sorted(own)
    assert [line["is_best"] for line in lines].count(True) == 1


def test_table_4_is_not_of_the_highest_test_score(run):
    resnet = {"model": "resnet50", "dataset": "ucmerced", "title": "UC Merced"}
    layers = ["conv1", "res4e_branch2c", "fc1000"]
    lucky = [altered(run, n_right=79, selection=resnet | {"layers": [layer]}) for layer in layers]
    three = altered(run, n_right=75, selection=resnet | {"layers": layers})
    final = compare_published("ucmerced", lucky)[-1]
    assert final["name"] == "resnet50 fc1000 · ridge"
    ours = compare_published("ucmerced", [*lucky, three])[-1]
    assert (ours["ours"], ours["run_id"], ours["n_runs"]) == (75 / 80, three.run_id, 1)
    assert ours["name"] == "resnet50 conv1+res4e_branch2c+fc1000 · ridge"
    # Several classifiers on all three: cross-validation decides, not the test.
    tuned = altered(
        run, n_right=70, cv_accuracy=0.99, clf="svm", selection=resnet | {"layers": layers}
    )
    ours = compare_published("ucmerced", [*lucky, three, tuned])[-1]
    assert (ours["run_id"], ours["n_runs"]) == (tuned.run_id, 2)


@pytest.mark.usefixtures("blank_pictures")
def test_random_weights_are_not_set_beside_the_paper(make_store):
    store = make_store(dataset="ucmerced", weights="IMAGENET1K_V2")
    X, y = blobs(320, 20)
    splits = (y * 0).astype("uint8")
    splits[240:] = 1
    add_features(store, {"fc8": X}, y, splits, model="alexnet", dataset="ucmerced")
    runs = fit(store, "lda", model="resnet50") + fit(store, "lda", model="alexnet")
    lines = {line["method"]: line for line in compare_published("ucmerced", runs)}
    assert "ours" in lines["ResNet50 features (proposed)"]
    assert "ours" not in lines["AlexNet features"]
    assert compare_published("folder", runs) == []
