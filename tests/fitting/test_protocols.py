"""Published protocols: what they fix, what they refuse, and that they do what their source does."""

import numpy as np
import pytest
from conftest import blobs, tagged
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from featstore.config import PROTOCOL_NAMES
from featstore.errors import ConfigError, FitError
from featstore.fitting.fit import fit, fit_each
from featstore.fitting.protocols import PROTOCOLS
from featstore.fitting.run_features import features_of
from featstore.fitting.solvers.similarity import SimilarityNeighbors
from featstore.inference.neighbors import find_neighbors
from featstore.inference.suspects import find_suspects
from featstore.progress import SILENT
from featstore.report.summaries import describe_run
from featstore.runs.find import find_run_folder
from featstore.runs.listing import list_fits

TRAIN, TEST, VAL = slice(0, 160), slice(160, 240), slice(240, 320)


@pytest.fixture
def features():
    """Return features that are hard to tell apart, of lengths that matter, and labels."""
    X, y = blobs(320, 20)
    rng = np.random.default_rng(7)
    X = X + rng.normal(0, 2, X.shape)
    return (X * rng.uniform(0.5, 3, X.shape[1])).astype(np.float32), y


@pytest.fixture
def store(features, make_store):
    X, y = features
    splits = np.repeat(np.array([0, 1, 2], np.uint8), [160, 80, 80])
    return make_store(X=X, y=y, splits=splits)


def test_the_names_are_those_of_the_protocols():
    assert tuple(PROTOCOLS) == PROTOCOL_NAMES
    for protocol in PROTOCOLS.values():
        assert "arXiv" in protocol.source or "http" in protocol.source or "DOI" in protocol.source
        assert protocol.unknown


def test_validation_chooses_c_and_then_trains_too(store, features):
    X, y = features
    knn, run = fit(store, protocol="torchgeo-bench", n_jobs=1)
    reference = KNeighborsClassifier(5).fit(X[TRAIN], y[TRAIN])
    assert knn.metrics.test.accuracy == reference.score(X[TEST], y[TEST])
    search = run.record.search
    assert (search.kind, search.cv, len(search.candidates)) == ("validation", 1, 40)
    tried = [one["params"]["C"] for one in search.candidates]
    assert (tried[0], tried[-1]) == (1e-6, 1e4)
    for at in (0, 20, 30):
        C = tried[at]
        own = LogisticRegression(C=C, max_iter=5000, tol=1e-8).fit(X[TRAIN], y[TRAIN])
        got = search.candidates[at]["mean"]
        assert got == pytest.approx(own.score(X[VAL], y[VAL]), abs=0.013)
    means = [one["mean"] for one in search.candidates]
    assert search.best["C"] == tried[int(np.argmax(means))]
    both = np.r_[0:160, 240:320]
    final = LogisticRegression(C=search.best["C"], max_iter=5000, tol=1e-8).fit(X[both], y[both])
    assert [name for name, _ in run.model.steps] == ["clf"]
    expected = final.predict_proba(X[TEST])
    np.testing.assert_allclose(run.model.predict_proba(X[TEST]), expected, atol=2e-3)
    assert (run.record.rows.n_train, run.record.rows.n_val) == (240, 0)


def test_images_that_chose_and_then_trained_count_as_trained_on(features, make_store):
    X, y = features
    splits = np.repeat(np.array([0, 1, 2], np.uint8), [160, 80, 80])
    first_rows = np.arange(320)
    # A test image is a copy of a validation image, another one of a training image.
    first_rows[250], first_rows[200] = 170, 5
    store = make_store(X=X, y=y, splits=splits, first_rows=first_rows)
    run = fit(store, "ridge", search="validation", n_jobs=1)[0]
    assert (run.record.rows.n_train, run.record.rows.n_leaked) == (240, 2)
    selection, split = features_of(run, store)
    assert (split.use_of_rows(320) == np.repeat(["train", "test", "train"], [160, 80, 80])).all()
    found = find_suspects(run, store=store, progress=SILENT)
    assert {one.split for one in found.suspects} == {"train", "test"}
    assert find_neighbors(run, "test/0000200", store=store, progress=SILENT).n_rows == 240
    by_folds = fit(store, "ridge", search="grid", n_jobs=1)[0]
    assert by_folds.record.rows.n_leaked == 1
    assert set(features_of(by_folds, store)[1].use_of_rows(320)) == {"train", "test", "val"}


def test_without_validation_images_a_tenth_of_the_training_images_chooses(features, make_store):
    X, y = features
    (run,) = fit(make_store(X=X, y=y), protocol="dinov3-logreg", n_jobs=1)
    assert len(run.record.search.candidates) == 45
    # 24 of 240 images decide.
    shares = {round(one["mean"] * 24, 6) for one in run.record.search.candidates}
    assert all(share == round(share) for share in shares)
    assert run.record.rows.n_train == 240


def test_neighbors_vote_by_their_similarity(features):
    X, y = features
    model = SimilarityNeighbors(10, 0.07).fit(X[TRAIN], y[TRAIN])
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    similarity = unit[TEST] @ unit[TRAIN].T
    votes = np.zeros((80, 4))
    for i, row in enumerate(similarity):
        for j in np.argsort(-row)[:10]:
            votes[i, y[j]] += np.exp(row[j] / 0.07)
    votes /= votes.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X[TEST]), votes, rtol=1e-3, atol=1e-6)
    assert (model.predict(X[TEST]) == votes.argmax(axis=1)).all()
    # More neighbors than training rows are all of them.
    assert np.isfinite(SimilarityNeighbors(900).fit(X[:9], y[:9]).predict_proba(X[TEST])).all()
    with pytest.raises(ValueError, match="temperature is 0"):
        SimilarityNeighbors(5, 0).fit(X[TRAIN], y[TRAIN])


def test_runs_of_a_protocol_are_a_group_of_their_own(store):
    (plain,) = fit(store, "knn", n_jobs=1)
    runs = fit(store, protocol="dino-knn", n_jobs=1)
    assert [run.record.params["n_neighbors"] for run in runs] == [10, 20, 100, 200]
    assert {run.record.fit.protocol for run in runs} == {"dino-knn"}
    titles = [line["title"] for line in list_fits(store)]
    assert titles == ["demo", *["demo (protocol dino-knn)"] * 4]
    assert sum(line["is_best"] for line in list_fits(store)) == 2
    assert find_run_folder("best", store) == plain.path
    best = find_run_folder("best:demo (protocol dino-knn)", store)
    assert best in [run.path for run in runs]
    facts = describe_run(runs[0])["facts"]
    assert "arXiv:2104.14294" in facts["protocol"]
    assert "--protocol dino-knn" in runs[0].record.command
    # Asked for again, they are the answer.
    assert all(one.reused for one in fit_each(store, protocol="dino-knn", n_jobs=1))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"clf": "lda"}, "clf contradicts"),
        ({"scale": "none", "search": "grid"}, "search, scale contradict"),
        ({"params": {"C": 1}}, "params contradicts"),
    ],
)
def test_what_a_protocol_fixes_can_not_be_given_too(more, named, store):
    with pytest.raises(ConfigError, match=f"{named} the protocol dino-knn"):
        fit(store, protocol="dino-knn", **more)


def test_features_that_a_protocol_is_not_for_are_refused(store, tmp_path):
    with pytest.raises(ConfigError, match="There is no protocol 'dino'"):
        fit(store, protocol="dino")
    (one,) = fit_each(tagged(tmp_path / "tags"), protocol="corley", n_jobs=1)
    assert isinstance(one.error, FitError)
    assert "images of one class each" in str(one.error)
    (one,) = fit_each(store, protocol="corley", n_jobs=1)
    assert "224 or 256 px, and these have 32 px" in str(one.error)


def test_the_scale_may_be_chosen(store, features):
    X, y = features
    (run,) = fit(store, "knn", scale="standard", n_jobs=1)
    assert [name for name, _ in run.model.steps] == ["scale", "clf"]
    (bare,) = fit(store, "logreg", scale="none", n_jobs=1)
    assert [name for name, _ in bare.model.steps] == ["clf"]
    assert bare.outline.fit["scale"] == "unscaled"
    assert "--scale none" in bare.record.command
