import json

import numpy as np
import pytest

from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.fitting.classifiers import CLASSIFIERS, find_classifier
from featstore.fitting.search import MIN_ROWS, Search, candidates


def find(name, search="grid", n_features=100, **options):
    config = FitConfig(name, search=search, **options)
    return candidates(find_classifier(name), config, n_features, 1000)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_grid_is_every_combination_of_the_classifiers_own_values(name):
    space = find_classifier(name).space(100)
    found = find(name)
    assert len(found) == np.prod([len(values) for values in space.values()])
    assert all(set(one) == set(space) for one in found)
    assert len({repr(one) for one in found}) == len(found)
    for param, values in space.items():
        assert {one[param] for one in found} == set(values)


def test_values_that_are_given_stand_in_place_of_its_own():
    assert find("logreg", grid=(("C", (3.0, 0.5)),)) == [{"C": 3.0}, {"C": 0.5}]
    found = find("logreg", grid=(("C", (3.0, 0.5)), ("fit_intercept", (True, False))))
    assert len(found) == 4
    found = find("logreg", grid=(("fit_intercept", (True, False)),))
    assert len(found) == 2 * len(find_classifier("logreg").space(100)["C"])


@pytest.mark.parametrize("search", ["grid", "random", "halving"])
def test_what_is_fixed_is_not_searched_for(search):
    found = find("knn", search, params=(("metric", "cosine"),))
    assert len(found) == 10
    assert all(set(one) == {"n_neighbors", "weights"} for one in found)


@pytest.mark.parametrize("search", ["random", "halving"])
def test_as_many_are_drawn_as_are_asked_for(search):
    found = find("logreg", search, n_candidates=33)
    assert len(found) == 33
    values = [one["C"] for one in found]
    own = find_classifier("logreg").space(100)["C"]
    assert min(own) <= min(values) < max(values) <= max(own)
    assert len(set(values)) == 33
    # As many in the lower half of the logarithms as in the upper.
    lower = np.mean(np.log(values) < np.mean(np.log([own[0], own[-1]])))
    assert 0.25 < lower < 0.75
    assert all(isinstance(value, float) for value in values)


def test_another_seed_is_another_draw():
    assert find("svm", "random", seed=1) == find("svm", "random", seed=1)
    assert find("svm", "random", seed=1) != find("svm", "random", seed=2)


def test_no_more_are_drawn_than_there_are():
    found = find("knn", "random", n_candidates=1000)
    assert len(found) == 20
    assert len({repr(sorted(one.items())) for one in found}) == 20
    found = find("logreg", "random", grid=(("C", (1.0, 2.0, 3.0)),))
    assert sorted(one["C"] for one in found) == [1.0, 2.0, 3.0]


def test_candidates_are_plain_values():
    for search in ("grid", "random"):
        for name in CLASSIFIERS:
            json.dumps(find(name, search))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("logreg", {"params": (("C", 1.0),)}, "nothing to search for logreg.*all its.*are fixed"),
        ("sklearn.naive_bayes:GaussianNB", {}, r"knows no values to try\..*--grid NAME=V1,V2"),
        (
            "logreg",
            {"params": (("C", 1.0),), "grid": (("C", (1.0, 2.0)),)},
            "C of logreg is both fixed and in the grid",
        ),
        ("logreg", {"grid": (("gamma", (1,)),)}, "logreg has no parameter gamma"),
        ("logreg", {"grid": (("C", (1.0, -2.0)),)}, "logreg can't take.*'C'"),
        ("mlp", {"grid": (("random_state", (1, 2)),)}, "use --seed"),
    ],
)
def test_what_can_not_be_searched_is_refused_with_its_cause(name, options, message):
    with pytest.raises(FitError, match=message):
        find(name, **options)


def search(kind="grid", n=6, n_train=1000, n_classes=4, cv=5):
    found = [{"C": float(i)} for i in range(n)]
    return Search(FitConfig("logreg", search=kind, cv=cv, seed=3), found, n_train, n_classes)


@pytest.mark.parametrize("kind", ["grid", "random"])
def test_one_round_on_all_rows_finds_the_best(kind):
    one = search(kind, 4)
    assert (one.is_done, one.n_rows, len(one.pending)) == (False, 1000, 4)
    scores = np.array([[0.5, 0.6], [0.9, 0.8], [0.9, 0.8], [0.7, 0.9]])
    one.add_scores(scores, [])
    assert one.is_done
    # The first of equals.
    assert one.best == {"C": 1.0}
    record = one.to_dict()
    json.dumps(record, allow_nan=False)
    assert {k: v for k, v in record.items() if k != "candidates"} == {
        "kind": kind,
        "cv": 5,
        "seed": 3,
        "best": {"C": 1.0},
        "accuracy": pytest.approx(0.85),
        "deviation": pytest.approx(np.std([0.9, 0.8], ddof=1)),
    }
    assert [entry["params"] for entry in record["candidates"]] == [{"C": i} for i in range(4)]
    assert [entry["scores"] for entry in record["candidates"]] == scores.tolist()
    assert record["candidates"][0]["mean"] == pytest.approx(0.55)
    assert {entry["n_rows"] for entry in record["candidates"]} == {1000}


def test_what_failed_on_any_fold_is_never_the_best():
    one = search(n=3)
    one.add_scores(np.array([[np.nan, 1.0], [np.nan, np.nan], [0.1, 0.2]]), ["odd", "odder"])
    assert one.best == {"C": 2.0}
    entries = one.to_dict()["candidates"]
    assert entries[0]["scores"] == [None, 1.0]
    assert (entries[0]["mean"], entries[0]["deviation"]) == (None, None)
    json.dumps(one.to_dict(), allow_nan=False)


@pytest.mark.parametrize("kind", ["grid", "halving"])
def test_where_all_failed_the_first_cause_is_told(kind):
    one = search(kind, 3)
    with pytest.raises(FitError, match="None of the 3 settings of logreg .* The first error: odd$"):
        one.add_scores(np.full((3, 2), np.nan), ["odd", "odder"])
    with pytest.raises(FitError, match="no score"):
        search(kind, 3).add_scores(np.full((3, 2), np.nan), [])


def test_halving_goes_from_many_candidates_on_few_rows_to_few_on_all():
    one = search("halving", n=27, n_train=10_000)
    best = 19
    rounds = []
    while not one.is_done:
        rounds.append((one.n_rows, len(one.pending)))
        means = np.array([-abs(c["C"] - best) for c in one.pending])
        one.add_scores(0.5 + np.stack([means, means], axis=1) / 100, [])
    assert rounds == [(370, 27), (1111, 9), (3333, 3), (10_000, 1)]
    assert one.best == {"C": best}
    entries = one.to_dict()["candidates"]
    assert len(entries) == 27
    assert sorted(entry["n_rows"] for entry in entries) == [370] * 18 + [1111] * 6 + [3333] * 2 + [
        10_000
    ]
    assert entries[best]["n_rows"] == 10_000


@pytest.mark.parametrize(
    ("n", "n_train", "n_classes", "rounds"),
    [
        (27, 1000, 4, [333, 1000]),
        (27, 3 * MIN_ROWS - 1, 4, [3 * MIN_ROWS - 1]),
        (3, 10_000, 4, [3333, 10_000]),
        (1, 10_000, 4, [10_000]),
        (27, 10_000, 45, [3333, 10_000]),
        (27, 10_000, 400, [10_000]),
    ],
)
def test_halvings_rounds_have_rows_enough_for_all_folds_and_classes(n, n_train, n_classes, rounds):
    one = search("halving", n, n_train, n_classes)
    found = []
    while not one.is_done:
        found.append(one.n_rows)
        one.add_scores(np.random.default_rng(0).random((len(one.pending), 5)), [])
    assert found == rounds


def test_halving_drops_what_failed():
    one = search("halving", n=9, n_train=1000)
    scores = np.full((9, 2), np.nan)
    scores[4] = 0.3
    one.add_scores(scores, ["odd"])
    assert one.pending[0] == {"C": 4.0}
    one.add_scores(np.array([[0.2, 0.3]] + [[np.nan] * 2] * (len(one.pending) - 1)), [])
    assert one.best == {"C": 4.0}
    json.dumps(one.to_dict(), allow_nan=False)
