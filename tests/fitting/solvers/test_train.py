import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.fitting.classifiers import CLASSIFIERS, find_classifier
from featstore.fitting.evaluate import predict_blocks
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.solvers.scaling import fit_scaler, standardised
from featstore.fitting.solvers.train import explained, map_kernel, train

SOLVERS = {
    "logreg": "passes",
    "linear-svm": "passes",
    "nystroem-svm": "passes",
    "ridge": "sums",
    "lda": "sums",
    "mlp": "epochs",
    "dbn": "epochs",
    "sgd": "epochs",
    "softmax": "epochs",
    "svm": "scikit-learn",
    "knn": "scikit-learn",
    "similarity-knn": "scikit-learn",
    "triplet": "scikit-learn",
}


@pytest.fixture
def data(tmp_path):
    """Return X, a read-only memory map of float32, and y, of three classes."""
    rng = np.random.default_rng(0)
    y = (np.arange(150) % 3).astype(np.int32)
    X = 5 + 3 * (rng.normal(size=(3, 12))[y] * 2 + rng.normal(size=(150, 12)))
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert not X.flags.writeable
    return X, y


def fit(name, X, y, scratch, params=None, **options):
    """Return the pipeline trained as a fit trains it, and how that went."""
    classifier = find_classifier(name)
    model = classifier.pipeline(classifier.params(params or {}), 0)
    samples = Samples(X, slice(0, len(X)))
    rows = X
    if "scale" in model.named_steps:
        model.steps[0] = ("scale", fit_scaler(samples))
        rows = standardised(samples, len(X), "x", scratch)
    return model, train(model, rows, y, FitConfig(name, **options))


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("labels", [[0, 1, 2], [3, 8]])
def test_every_classifier_learns_from_a_read_only_memory_map(name, labels, data, tmp_path):
    X, y = data
    classes = np.array(labels)
    n_classes = len(classes)
    y = classes[y % n_classes]
    # A step for each epoch, as these few rows give, is little for Adam.
    params = {"learning_rate_init": 0.05} if name == "softmax" else {}
    model, trained = fit(name, X, y, tmp_path, params)
    assert trained.converged
    assert trained.notes == []
    assert trained.solver == SOLVERS[name]
    assert (trained.curves is not None) == (name in ("mlp", "dbn", "sgd", "softmax"))
    predicted = predict_blocks(model, Samples(X, slice(0, 150)))
    assert np.array_equal(predicted.labels, model.predict(X))
    assert (predicted.labels.dtype, predicted.scores.dtype) == (np.int32, np.float32)
    assert np.isfinite(predicted.scores).all()
    assert set(predicted.labels) <= set(classes)
    assert np.mean(predicted.labels == y) > (0.9 if n_classes == 3 else 0.6)
    np.testing.assert_array_equal(model.classes_, classes)
    gives_probability = name not in ("linear-svm", "svm", "ridge", "triplet", "nystroem-svm")
    assert predicted.score_kind == (
        "uncalibrated probability" if gives_probability else "decision value"
    )
    if gives_probability:
        assert predicted.scores.min() >= 1 / n_classes - 1e-6
        assert predicted.scores.max() <= 1


def test_softmax_is_weights_from_features_to_classes_and_nothing_between(data, tmp_path):
    X, y = data
    model, _ = fit("softmax", X, y, tmp_path)
    assert [w.shape for w in model.named_steps["clf"].coefs_] == [(12, 3)]


@pytest.mark.parametrize(
    ("name", "params", "solver"),
    [
        ("logreg", {"class_weight": "balanced"}, "scikit-learn"),
        ("linear-svm", {"loss": "hinge"}, "scikit-learn"),
        ("ridge", {"solver": "lsqr"}, "scikit-learn"),
        ("lda", {"solver": "svd", "shrinkage": None}, "scikit-learn"),
        ("mlp", {"solver": "lbfgs", "max_iter": 500}, "scikit-learn"),
        ("logreg", {"C": 5.0, "tol": 1e-3}, "passes"),
        ("lda", {"shrinkage": 0.9}, "sums"),
    ],
)
def test_what_no_quicker_solver_gives_is_left_to_scikit_learn(name, params, solver, data, tmp_path):
    X, y = data
    model, trained = fit(name, X, y, tmp_path, params)
    assert trained.solver == solver
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("name", ["logreg", "linear-svm", "ridge", "lda"])
def test_the_quick_solvers_give_scikit_learns_pipeline(name, data, tmp_path):
    X, y = data
    params = {"tol": 1e-6, "max_iter": 50_000} if name in ("logreg", "linear-svm") else {}
    model, _ = fit(name, X, y, tmp_path, params)
    clf = model.named_steps["clf"]
    own = type(clf)(**clf.get_params())
    reference = Pipeline([("scale", StandardScaler()), ("clf", own)]).fit(X.astype(np.float64), y)
    found, expected = model.decision_function(X), reference.decision_function(X)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["logreg", "linear-svm", "nystroem-svm", "mlp", "sgd", "softmax"])
def test_what_has_not_converged_says_so_with_a_cure(name, data, tmp_path):
    X, y = data
    params = {"max_iter": 1} | ({"C": 100.0} if "svm" in name or name == "logreg" else {})
    _, trained = fit(name, X, y, tmp_path, params)
    assert not trained.converged
    (note,) = trained.notes
    assert f"{name} had not converged after max_iter=1 iterations" in note
    assert "--param max_iter=N" in note


def test_the_number_of_epochs_is_passed_on_and_counts_as_converged(data, tmp_path):
    X, y = data
    _, trained = fit("mlp", X, y, tmp_path, n_epochs=3)
    assert len(trained.curves.loss) == 3
    assert trained.converged
    assert trained.notes == []


def test_warnings_become_notes_each_but_once(data):
    X, y = data

    class Warning(GaussianNB):
        def fit(self, X, y):
            import warnings

            for text in ("beware", "beware", "mind"):
                warnings.warn(text, UserWarning, stacklevel=1)
            return super().fit(X, y)

    trained = train(Pipeline([("clf", Warning())]), X, y, FitConfig("own:clf"))
    assert trained.notes == ["scikit-learn says: beware", "scikit-learn says: mind"]
    assert trained.converged


def test_a_warning_of_scikit_learns_own_solver_is_no_convergence(data):
    X, y = data
    model = Pipeline([("clf", LogisticRegression(solver="saga", max_iter=1))])
    trained = train(model, X, y, FitConfig("logreg"))
    assert not trained.converged
    assert "had not converged" in trained.notes[0]
    with pytest.warns(ConvergenceWarning):
        LogisticRegression(solver="saga", max_iter=1).fit(X, y)


class TestMapKernel:
    def test_it_maps_as_scikit_learn_does_from_the_rows_to_fit_on(self, data, monkeypatch):
        X, _ = data
        monkeypatch.setattr(Samples, "blocks", lambda self, **_: [slice(0, 7), slice(7, len(self))])
        order = np.arange(150)[::-1]
        mine, theirs = (Nystroem(n_components=20, random_state=1, gamma=0.01) for _ in range(2))
        found = map_kernel(mine, Samples(X, order), 100)
        theirs.fit(X[order[:100]])
        np.testing.assert_allclose(found, theirs.transform(X[order]), atol=1e-4)
        assert found.dtype == np.float32

    def test_there_are_no_more_components_than_rows(self, data):
        X, _ = data
        kernel = Nystroem(n_components=1000, random_state=1, gamma=0.01)
        assert map_kernel(kernel, Samples(X, slice(0, 150)), 30).shape == (150, 30)
        assert kernel.n_components == 30


class TestExplained:
    @pytest.mark.parametrize(
        "error",
        [
            ValueError("odd"),
            TypeError("odd"),
            FloatingPointError("odd"),
            np.linalg.LinAlgError("odd"),
            NotImplementedError("odd"),
            IndexError("odd"),
        ],
    )
    def test_what_data_or_parameters_cause_is_an_error_of_the_fit(self, error):
        with (
            pytest.raises(FitError, match="logreg can't be fitted: odd"),
            explained("logreg", 9, 9),
        ):
            raise error

    def test_too_little_memory_names_ways_out(self):
        message = "1,000 x 9 training features.*--n-jobs 1"
        with pytest.raises(FitError, match=message), explained("logreg", 1000, 9):
            raise MemoryError

    def test_too_few_threads_name_ways_out(self):
        message = "can't start new thread. .*`ulimit -u`.*OMP_NUM_THREADS=1 and --n-jobs 1"
        with pytest.raises(FitError, match=message), explained("logreg", 1000, 9):
            raise RuntimeError("can't start new thread")

    def test_errors_of_a_fit_stay_as_they_are(self):
        with pytest.raises(FitError, match="^plain$"), explained("logreg", 9, 9):
            raise FitError("plain")

    def test_a_bug_is_not_hidden(self):
        with pytest.raises(KeyError), explained("logreg", 9, 9):
            raise KeyError("bug")

    def test_whatever_ones_own_code_raises_is_an_error_of_the_fit(self):
        message = "mine:clf can't be fitted: KeyError: 'column'"
        with pytest.raises(FitError, match=message), explained("mine:clf", 9, 9):
            raise KeyError("column")


def test_divergence_is_an_error(data, tmp_path):
    X, y = data
    with np.errstate(all="ignore"), pytest.raises(FitError, match="Training failed in epoch"):
        fit("mlp", X, y, tmp_path, {"solver": "sgd", "learning_rate_init": 1e30})


def test_classifiers_stay_scikit_learns_own(data, tmp_path):
    X, y = data
    kinds = {
        "logreg": LogisticRegression,
        "linear-svm": LinearSVC,
        "mlp": MLPClassifier,
        "svm": SVC,
    }
    for name, kind in kinds.items():
        model, _ = fit(name, X, y, tmp_path)
        assert type(model.named_steps["clf"]) is kind
