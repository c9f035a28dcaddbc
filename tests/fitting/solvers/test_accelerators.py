import os
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import version

import numpy as np
import pytest
from sklearn.svm import SVC

from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.fitting.solvers import accelerators
from featstore.runs.model_file import load_model, save_model


def test_what_is_computed_by_scikit_learn_alone_needs_no_check():
    accelerators.check(FitConfig("knn"))
    assert accelerators.versions(FitConfig("svm")) == {}


def test_a_package_that_is_not_installed_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(accelerators, "find_spec", lambda name: None)
    with pytest.raises(FitError, match="pip install scikit-learn-intelex, or leave out --intel"):
        accelerators.check(FitConfig("svm", intelex=True))


def test_what_it_does_not_speed_up_is_refused(monkeypatch):
    monkeypatch.setattr(accelerators, "find_spec", lambda name: object())
    accelerators.check(FitConfig("svm", intelex=True))
    with pytest.raises(FitError, match="speeds up svm, not logreg"):
        accelerators.check(FitConfig("logreg", intelex=True))


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("params", [{}, {"kernel": "linear"}, {"class_weight": "balanced"}])
def test_an_svm_by_intelex_is_a_plain_one_that_says_the_same(n_classes, params, tmp_path):
    # Where OpenVINO was loaded first in this process, it can't be loaded.
    pytest.importorskip("sklearnex", exc_type=ImportError)
    from sklearn.pipeline import Pipeline

    rng = np.random.default_rng(0)
    y = np.arange(200) % n_classes * 2 + 1
    X = (rng.normal(size=(9, 12))[y] + rng.normal(size=(200, 12))).astype(np.float32)
    X.flags.writeable = False
    mine, theirs = SVC(**params), SVC(**params).fit(X, y)
    accelerators.fit_with_intelex(mine, X, y)
    assert type(mine) is SVC
    np.testing.assert_allclose(mine.decision_function(X), theirs.decision_function(X), atol=0.02)
    np.testing.assert_array_equal(mine.classes_, theirs.classes_)
    assert set(vars(mine)) == set(vars(theirs))
    model = Pipeline([("clf", mine)])
    save_model(model, tmp_path / "model.skops")
    loaded = load_model((tmp_path / "model.skops").read_bytes())
    np.testing.assert_array_equal(loaded.predict(X), mine.predict(X))


def test_one_that_cannot_be_loaded_is_an_error_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearnex.svm", None)
    with pytest.raises(FitError, match="can't be loaded .* fit in another one"):
        accelerators.fit_with_intelex(SVC(), np.ones((4, 2), np.float32), np.arange(4) % 2)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_without_a_gpu_it_is_an_error(device, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FitError, match=f"no CUDA GPU for --clf-device {device}"):
        accelerators.check(FitConfig("logreg", device=device))


def test_a_gpu_beyond_those_there_are_is_an_error(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda", "cuda:0", "cuda:1"):
        accelerators.check(FitConfig("ridge", device=device))
    with pytest.raises(FitError, match="no GPU 2 .* there are 2, counted from 0"):
        accelerators.check(FitConfig("ridge", device="cuda:2"))
    assert accelerators.versions(FitConfig("ridge", device="cuda")) == {"torch": version("torch")}


def test_what_does_not_compute_on_a_gpu_is_refused():
    with pytest.raises(FitError, match="logreg, ridge and lda on a GPU, not svm"):
        accelerators.check(FitConfig("svm", device="cuda"))
    with pytest.raises(FitError, match="A search runs on the CPU"):
        accelerators.check(FitConfig("logreg", device="cuda", search="grid"))


SCRIPT = """
import sys

import numpy as np
from sklearn.pipeline import Pipeline

from featstore.fitting.solvers import accelerators
from featstore.fitting.classifiers import find_classifier
from featstore.runs.model_file import load_model, save_model

rng = np.random.default_rng(0)
for name in ("logreg", "ridge", "lda"):
    for n_classes in (2, 4):
        y = (np.arange(240) % n_classes).astype(np.int32) * 2 + 1
        X = (rng.normal(size=(9, 12))[y] + rng.normal(size=(240, 12))).astype(np.float32)
        X.flags.writeable = False
        classifier = find_classifier(name)
        params = {"tol": 1e-5} if name == "logreg" else {}
        mine, theirs = (
            classifier.pipeline(classifier.params(params), 0).named_steps["clf"] for _ in range(2)
        )
        mine.set_params(**accelerators.gpu_params(mine))
        theirs.set_params(**accelerators.gpu_params(theirs))
        accelerators.fit_on_gpu(mine, X, y, "cpu")
        theirs.fit(X, y)
        np.testing.assert_array_equal(mine.predict(X), theirs.predict(X))
        decided = mine.decision_function(X)
        for found, expected in (
            (mine.coef_, theirs.coef_),
            (mine.intercept_, theirs.intercept_),
            (decided, theirs.decision_function(X)),
            (mine.classes_, theirs.classes_),
        ):
            assert isinstance(found, np.ndarray | np.generic | float), (name, type(found))
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4, err_msg=name)
        save_model(Pipeline([("clf", mine)]), sys.argv[1])
        with open(sys.argv[1], "rb") as stream:
            loaded = load_model(stream.read())
        np.testing.assert_array_equal(loaded.predict(X), theirs.predict(X))
        np.testing.assert_array_equal(loaded.decision_function(X), decided)
"""


def test_what_arrays_of_pytorch_give_is_what_arrays_of_numpy_give(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, tmp_path / "model.skops"],
        env={**os.environ, "SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_too_little_memory_of_the_device_is_an_error(monkeypatch):
    import torch

    def full(*args):
        raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    monkeypatch.setattr(torch, "from_numpy", full)
    monkeypatch.setattr(accelerators.sklearn, "config_context", lambda **options: nullcontext())
    with pytest.raises(FitError, match="9 x 4 training features do not fit the memory of cuda:0"):
        accelerators.fit_on_gpu(SVC(), np.ones((9, 4), np.float32), np.ones(9), "cuda:0")


def test_where_scipy_was_not_told_it_is_an_error(monkeypatch):
    monkeypatch.delenv("SCIPY_ARRAY_API", raising=False)
    with pytest.raises(FitError, match="scheduler's workers with SCIPY_ARRAY_API=1"):
        accelerators.fit_on_gpu(SVC(), np.ones((9, 4), np.float32), np.ones(9), "cuda:0")
