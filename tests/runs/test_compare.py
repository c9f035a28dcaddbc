import csv
import json
import math

import numpy as np
import pytest
from makers import run_record
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

import featstore
from featstore.errors import ConfigError, RunError
from featstore.fitting.fit import fit
from featstore.runs import compare as compare_module
from featstore.runs.compare import compare, compare_all, no_test_differs
from featstore.runs.significance import CHI_SQUARED, EXACT, SIGN_FLIP
from featstore.runs.writer import write_run
from featstore.store.feature_store import open_store

CLASSES = ("forest", "sand", "water")


@pytest.fixture
def make_run(tmp_path):
    """Make a run, written as fit writes it, of the predictions given."""
    store = open_store(tmp_path / "store")

    def make(
        run_id, true, predicted, *, ids=None, splits=None, test_split="test", groups=(), **selection
    ):
        n = len(true)
        record = run_record(CLASSES, test_split, **{"model": run_id, **selection})
        record["rows"] |= {"n_test_groups": len({*groups})}
        columns = {
            "sample_id": np.array(ids or [f"test/{i:03d}" for i in range(n)]),
            "split": np.array(splits or ["test"] * n),
            "true": np.array(true),
            "predicted": np.array(predicted),
            "score": np.linspace(0, 1, n),
            **({"group": np.array(groups)} if len(groups) else {}),
        }
        model = Pipeline([("clf", LogisticRegression())])
        return write_run(store, run_id, record, model, columns, None)

    return make


@pytest.fixture
def make_pair(make_run):
    """Make two runs with the given numbers of rows that both, one or none gets right."""

    def make(both, only_a, only_b, neither):
        true = [CLASSES[i % 3] for i in range(both + only_a + only_b + neither)]
        wrong = [CLASSES[(i + 1) % 3] for i in range(len(true))]
        right_a = [True] * (both + only_a) + [False] * (only_b + neither)
        right_b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
        return [
            make_run(name, true, np.where(right, true, wrong))
            for name, right in (("a", right_a), ("b", right_b))
        ]

    return make


def test_exact_on_the_culture_media_of_armitage_and_berry(make_pair):
    # Statistical Methods in Medical Research, 1994, p. 127: of 50 specimens both media grew 20,
    # the first alone 12, the second alone 2, neither 16.
    found = compare(*make_pair(20, 12, 2, 16))
    assert found.test == EXACT
    assert found.statistic is None
    # Twice the probability of 0, 1 or 2 heads in 14 tosses.
    assert found.p_value == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    assert (found.n_both_right, found.n_only_a_right) == (20, 12)
    assert (found.n_only_b_right, found.n_both_wrong) == (2, 16)
    assert (found.accuracy_a, found.accuracy_b) == (32 / 50, 22 / 50)
    assert found.difference == pytest.approx(0.2)
    assert found.sentence == (
        "a fc1000 · logreg is right on 10 more of 50 test images than b fc1000 · logreg; the "
        "difference is significant at 5 %: p = 0.0129 (exact McNemar test)."
    )


def test_chi_squared_on_the_colds_of_bland(make_pair):
    # An Introduction to Medical Statistics, 2000: of 1,319 schoolchildren 212 had severe colds at
    # 12 and at 14, 144 only at 12, 256 only at 14, 707 never.
    found = compare(*make_pair(212, 144, 256, 707))
    assert found.test == CHI_SQUARED
    assert found.statistic == pytest.approx((112 - 1) ** 2 / 400)
    # The tail of chi-squared with one degree of freedom is that of the normal distribution.
    assert found.p_value == pytest.approx(math.erfc(math.sqrt(30.8025 / 2)))
    assert 100 * found.difference == pytest.approx(-8.49, abs=0.005)
    assert "b fc1000 · logreg is right on 112 more of 1,319 test images" in found.sentence
    assert "p < 0.0001 (McNemar's chi-squared" in found.sentence


def test_images_of_one_group_count_together(make_run):
    # Three places of 20 images: the first run is right on all of two places, on which the other
    # is wrong. McNemar's test would be sure.
    true, wrong = ["forest"] * 60, ["sand"] * 60
    groups = np.repeat(["north", "south", "west"], 20)
    a = make_run("a", true, true, groups=groups)
    b = make_run("b", true, true[:20] + wrong[20:], groups=groups)
    found = compare(a, b)
    assert (found.test, found.statistic, found.n_groups) == (SIGN_FLIP, None, 3)
    assert found.p_value == pytest.approx(0.5)
    assert "not significant at 5 %: p = 0.5 (exact sign-flip test over groups)" in found.sentence
    assert no_test_differs(a, b)
    assert [p for _, p in compare_all(a, [b, b])] == [1.0, 1.0]
    # A set of the same images may lack the groups.
    assert compare(a, make_run("c", true, wrong)).test == SIGN_FLIP


def test_swapping_the_runs_changes_the_signs_only(make_pair):
    a, b = make_pair(20, 12, 3, 5)
    there, back = compare(a, b), compare(b, a)
    assert back.difference == -there.difference
    assert back.interval == (-there.interval[1], -there.interval[0])
    assert back.p_value == there.p_value
    assert (back.n_only_a_right, back.n_only_b_right) == (3, 12)
    assert [c.difference for c in back.per_class] == [-c.difference for c in there.per_class]
    assert back.sentence == there.sentence


def test_a_run_and_itself(make_pair):
    a, _ = make_pair(20, 12, 3, 5)
    found = compare(a, a)
    assert (found.p_value, found.difference, found.n_same) == (1.0, 0.0, 40)
    assert found.most_different() == []
    assert found.sentence == (
        "a and a predict the same for all 40 test images: p = 1 (exact McNemar test)."
    )


def test_equally_often_right_is_not_the_same_as_right_on_the_same(make_pair, make_run):
    assert "are each right on 25 of 36 test images, though not the same: p = 1" in (
        compare(*make_pair(20, 5, 5, 6)).sentence
    )
    true = ["forest", "sand"]
    found = compare(make_run("c", true, ["forest", "water"]), make_run("d", true, ["forest"] * 2))
    assert (found.n_both_wrong, found.n_same) == (1, 1)
    assert "are each right on 1 of 2 test images, the same: p = 1" in found.sentence


def test_recalls_worked_out_by_hand(make_run):
    true = ["forest"] * 4 + ["sand"] * 2
    a = make_run("a", true, ["forest", "forest", "forest", "sand", "sand", "sand"])
    b = make_run("b", true, ["forest", "forest", "sand", "sand", "water", "forest"])
    forest, sand = compare(a, b).per_class
    assert (forest.name, forest.support, forest.recall_a, forest.recall_b) == (
        "forest",
        4,
        3 / 4,
        0.5,
    )
    assert (sand.name, sand.support, sand.recall_a, sand.recall_b) == ("sand", 2, 1.0, 0.0)
    assert [c.name for c in compare(a, b).most_different()] == ["sand", "forest"]
    assert [c.name for c in compare(b, a).most_different(1)] == ["sand"]


def test_rows_are_matched_by_their_ids(make_run):
    true = ["forest", "sand", "water", "sand", "forest"]
    predicted = ["forest", "water", "water", "sand", "sand"]
    ids = ["v", "w", "x", "y", "z"]
    a = make_run("a", true, predicted, ids=ids)
    order = [3, 0, 4, 2, 1]
    shuffled = [[column[i] for i in order] for column in (true, predicted, ids)]
    b = make_run("b", shuffled[0], shuffled[1], ids=shuffled[2])
    found = compare(a, b)
    assert (found.n_same, found.n_both_right, found.n_both_wrong) == (5, 3, 2)


def test_validation_rows_do_not_count(make_run):
    true, splits = ["forest", "sand", "water"], ["test", "test", "val"]
    a = make_run("a", true, ["forest", "sand", "sand"], splits=splits)
    b = make_run("b", true[:2], ["forest", "forest"])
    assert compare(a, b).n_test == 2
    assert compare(a, b).accuracy_a == 1.0
    # Where there is no test split, the validation rows are the test.
    c = make_run("c", true[2:], ["water"], splits=["val"], test_split="val")
    assert compare(c, c).n_test == 1
    with pytest.raises(ConfigError, match="of their 2 and 1 test rows they share 0"):
        compare(a, make_run("d", ["water"], ["water"], splits=["val"], test_split="val", ids=["x"]))


def test_other_rows_are_refused_never_left_out(make_run):
    few = make_run("few", ["sand"] * 40, ["sand"] * 40)
    many = make_run("many", ["sand"] * 60, ["sand"] * 60)
    for pair in ((few, many), (many, few)):
        with pytest.raises(ConfigError, match=r"test rows they share 40\. .*--limit and --seed"):
            compare(*pair)


def test_other_classes_of_the_same_names_are_refused(make_run):
    a = make_run("a", ["sand", "sand", "forest"], ["sand"] * 3)
    b = make_run("b", ["sand", "water", "forest"], ["sand"] * 3)
    with pytest.raises(
        ConfigError, match=r"share 3, and 1 of these .* test/001 \(sand and water\)"
    ):
        compare(a, b)


def test_other_images_of_the_same_names_give_a_caution(make_run):
    true = ["sand", "water"]
    runs = [make_run(name, true, true, fingerprint=name) for name in "ab"]
    found = compare(*runs)
    assert found.to_dict()["same_images"] is False
    assert "matched by name and class alone" in found.caution
    alike = compare(runs[0], runs[0])
    assert (alike.same_images, alike.caution) == (True, "")


def test_changed_predictions_are_refused(make_pair):
    a, b = make_pair(5, 2, 1, 2)
    path = b.path / "predictions.csv"
    path.write_bytes(path.read_bytes().replace(b"forest,sand", b"forest,forest"))
    with pytest.raises(RunError, match=r"predictions\.csv is not what fit wrote.*--refit"):
        compare(a, b)
    path.unlink()
    with pytest.raises(RunError, match=r"predictions\.csv can't be read"):
        compare(a, b)


def test_runs_that_differ_in_parameters_only_go_by_their_ids(make_run):
    a = make_run("run-1", ["sand"] * 2, ["sand"] * 2, model="resnet50")
    b = make_run("run-2", ["sand"] * 2, ["sand", "water"], model="resnet50")
    assert compare(a, b).sentence.startswith("run-1 is right on 1 more of 2 test images than run-2")


def test_predictions_are_read_as_they_were_written(make_run):
    names = ['say "forest"', "sand, wet", "wäter\nline", "=1+1", "'=1+1"]
    run = make_run("a", names, names[::-1])
    with (run.path / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    # No spreadsheet takes a name for a formula.
    shown = [*names[:3], "'=1+1", "''=1+1"]
    assert run.predictions["true"].tolist() == names
    assert [line["true"] for line in lines] == shown
    assert run.predictions["predicted"].tolist() == names[::-1]
    assert run.predictions["score"].dtype == np.float64
    assert run.predictions["score"].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_fitted_runs_compare_as_their_metrics_say(make_store):
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(320, 20)).astype(np.float32) * 3
    y = (np.arange(320) % 4).astype(np.int32)
    X = noise + np.eye(4, 20, dtype=np.float32)[y] * 6
    runs = fit(make_store(X=X, y=y), ["logreg", "knn"], n_jobs=1)
    found = featstore.compare(*runs)
    scores = [run.metrics.test for run in runs]
    assert found.n_test == 80
    assert [found.accuracy_a, found.accuracy_b] == [s.accuracy for s in scores]
    assert found.difference == pytest.approx(scores[0].accuracy - scores[1].accuracy)
    assert found.difference != 0
    assert [c.recall_b for c in found.per_class] == [c.recall for c in scores[1].per_class]
    assert found.name_b == "resnet50 (random:0) fc1000 · knn"
    as_dict = found.to_dict()
    assert json.loads(json.dumps(as_dict, allow_nan=False)) == as_dict
    assert as_dict["significant"] == (found.p_value < 0.05)


def test_all_rows_of_a_split_that_was_drawn_anew_are_judged(make_store):
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(320, 20)).astype(np.float32) * 3
    y = (np.arange(320) % 4).astype(np.int32)
    X = noise + np.eye(4, 20, dtype=np.float32)[y] * 6
    runs = fit(make_store(X=X, y=y), ["lda", "knn"], n_jobs=1, split_seed=5)
    found = featstore.compare(*runs)
    scores = [run.metrics.test for run in runs]
    assert found.n_test == scores[0].n_samples == 80
    assert [found.accuracy_a, found.accuracy_b] == [s.accuracy for s in scores]
    assert {row.split("/")[0] for row in runs[0].predictions["sample_id"]} == {"train", "test"}
    assert set(runs[0].predictions["split"]) == {"test"}


def test_holms_correction_is_that_of_his_paper(monkeypatch):
    class One:
        def __init__(self, p_value):
            self.p_value = p_value

    p_values = [0.04, 0.01, 0.03, 0.5]
    monkeypatch.setattr(compare_module, "compare", lambda other, reference: One(other))
    adjusted = [p for _, p in compare_module.compare_all(None, p_values)]
    # R: p.adjust(c(0.04, 0.01, 0.03, 0.5), "holm")
    assert adjusted == pytest.approx([0.09, 0.04, 0.09, 0.5])
