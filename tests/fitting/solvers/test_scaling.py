import os
import time
import tracemalloc
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from featstore.errors import SpaceError
from featstore.fitting.solvers import scaling
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.solvers.scaling import (
    Moments,
    fit_scaler,
    moments,
    new_scratch,
    own_scratch,
    scratch_folder,
    standardised,
)
from featstore.io import locks


@pytest.fixture
def X():
    """Return features as awkward as they come: constants, tiny and huge ones."""
    rng = np.random.default_rng(0)
    X = rng.normal(5, 3, size=(700, 8)).astype(np.float32)
    X[:, 1] = 4.7
    X[:, 2] = 0.0
    X[:, 3] = 1e6 + rng.normal(size=700)
    X[:, 4] *= 1e-12
    X[:, 5] = rng.random(700) < 0.01
    X[:, 6] = 1e6
    X[:, 7] *= 1e12
    return X


def test_moments_of_parts_add_up_to_those_of_all(X):
    whole = moments(X)
    parts = [moments(X[:1]), moments(X[1:1]), moments(X[1:500]), moments(X[500:])]
    found = sum(parts[1:], start=parts[0])
    assert found.n == whole.n == 700
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-9)
    np.testing.assert_allclose(found.m2, whole.m2, rtol=1e-5)
    np.testing.assert_allclose(found.scale, X.std(axis=0, dtype=np.float64), rtol=1e-5, atol=1)


def test_moments_of_nothing_add_nothing(X):
    nothing = Moments(0, np.zeros(8), np.zeros(8))
    assert (nothing + nothing).n == 0
    found = nothing + moments(X)
    np.testing.assert_array_equal(found.mean, moments(X).mean)
    np.testing.assert_array_equal(found.m2, moments(X).m2)
    np.testing.assert_array_equal(nothing.scale, np.ones(8))


def test_a_tiny_deviation_about_a_huge_mean_is_found():
    X = (30_000 + np.random.default_rng(0).normal(0, 0.01, size=(5000, 1))).astype(np.float32)
    expected = X.std(axis=0, dtype=np.float64)
    assert moments(X).scale == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rows", [slice(0, 700), slice(100, 400), np.arange(0, 700, 3)])
def test_the_scaler_gives_scikit_learns_numbers(X, rows, monkeypatch):
    monkeypatch.setattr(
        "featstore.fitting.solvers.blocks.Samples.blocks",
        lambda self, nbytes: [slice(0, 90), slice(90, None)],
    )
    expected, found = StandardScaler().fit(X[rows]), fit_scaler(Samples(X, rows))
    for name in ("mean_", "scale_", "var_"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)
    constant = [1, 2, 6]
    np.testing.assert_array_equal(found.scale_[constant], np.ones(3))
    assert found.n_samples_seen_ == expected.n_samples_seen_
    assert found.n_features_in_ == expected.n_features_in_
    np.testing.assert_allclose(found.transform(X), expected.transform(X), rtol=1e-5, atol=1e-6)
    assert found.transform(X).dtype == np.float32


def test_the_scaler_makes_no_copy_of_all_rows(monkeypatch):
    X = np.random.default_rng(0).normal(5, 3, size=(40_000, 50)).astype(np.float32)
    monkeypatch.setattr(scaling, "CACHED_NBYTES", 2**18)
    tracemalloc.start()
    fit_scaler(Samples(X, slice(0, len(X))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 4


def test_standardised_rows_are_what_the_scaler_makes_of_them(X, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "row_blocks", lambda n, *rest: [slice(0, 33), slice(33, n)])
    order = np.random.default_rng(1).permutation(700)[:300]
    found = standardised(Samples(X, order), 200, "name", tmp_path)
    expected = fit_scaler(Samples(X, order[:200])).transform(X[order])
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32
    assert not found.flags.writeable
    assert isinstance(found, np.memmap)


def test_standardised_rows_are_written_once_and_shared(X, tmp_path, monkeypatch):
    written = []
    write = scaling._write

    def slowly(path, *args):
        written.append(path.name)
        time.sleep(0.1)
        write(path, *args)

    monkeypatch.setattr(scaling, "_write", slowly)
    samples = Samples(X, slice(0, 600))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: standardised(samples, 600, "a", tmp_path), range(3)))
    assert len({X.filename for X in found}) == len(written) == 1
    # What differs in rows, in those that are fitted on, or in the features is another file.
    standardised(samples, 500, "a", tmp_path)
    standardised(Samples(X, np.arange(600)[::-1]), 600, "a", tmp_path)
    standardised(samples, 600, "b", tmp_path)
    assert len(set(written)) == 4
    # The same rows by other means are not.
    standardised(Samples(X, np.arange(600)), 600, "a", tmp_path)
    assert len(written) == 4
    assert not list(tmp_path.glob("*.tmp"))


def test_a_file_that_was_not_finished_is_never_read(X, tmp_path, monkeypatch):
    def interrupted(n_samples, n_features, nbytes):
        yield slice(0, 100)
        raise KeyboardInterrupt

    monkeypatch.setattr(scaling, "row_blocks", interrupted)
    samples = Samples(X, slice(0, 700))
    with pytest.raises(KeyboardInterrupt):
        standardised(samples, 700, "name", tmp_path)
    monkeypatch.undo()
    found = standardised(samples, 700, "name", tmp_path)
    np.testing.assert_array_equal(found, fit_scaler(samples).transform(X))


def test_a_full_disk_is_an_error_that_says_how_much_is_wanted(X, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(scaling.shutil, "disk_usage", lambda path: usage(700 * 8 * 4 - 1))
    with pytest.raises(SpaceError, match=r"700 x 8 features takes 22 kB, and 22 kB are free"):
        standardised(Samples(X, slice(0, 700)), 700, "name", tmp_path)
    assert not list(tmp_path.glob("*.npy"))
    monkeypatch.setattr(scaling.shutil, "disk_usage", lambda path: usage(700 * 8 * 4))
    assert standardised(Samples(X, slice(0, 700)), 700, "name", tmp_path).shape == (700, 8)


def test_the_scratch_folder_is_gone_in_the_end_whatever_happens(tmp_path):
    folder = new_scratch(tmp_path / "cache")
    with scratch_folder(folder):
        (folder / "x.npy").write_bytes(b"x")
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt):
        _interrupted(folder)
    assert not folder.exists()


def _interrupted(folder):
    with scratch_folder(folder):
        (folder / "x.npy").write_bytes(b"x")
        raise KeyboardInterrupt


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path):
    parent = tmp_path / "scratch"
    for name in ("fit-0123456789ab", "other"):
        (parent / name).mkdir(parents=True)
        (parent / name / "x.npy").write_bytes(b"x")
    alive, folder = new_scratch(tmp_path), new_scratch(tmp_path)
    with scratch_folder(alive), scratch_folder(folder):
        os.utime(alive, (time.time() - 1e6,) * 2)
        with scratch_folder(new_scratch(tmp_path)):
            pass
        left = {path.name for path in parent.iterdir() if path.is_dir()}
        assert left == {"other", alive.name, folder.name}


def test_a_workers_own_folder_is_left_alone_by_others_until_it_leaves(tmp_path):
    parent = tmp_path / "scratch"
    (parent / "fit-0123456789ab").mkdir(parents=True)
    folder = own_scratch("/elsewhere/fit-mine", tmp_path)
    assert folder == own_scratch("/elsewhere/fit-mine", tmp_path) == parent / "fit-mine"
    assert {path.name for path in parent.iterdir() if path.is_dir()} == {"fit-mine"}
    with scratch_folder(new_scratch(tmp_path)):
        assert folder.is_dir()
    locks.remove_shared("fit-another")
    assert folder.is_dir()
    locks.remove_shared("fit-mine")
    assert list(parent.iterdir()) == []


def test_where_the_fit_was_begun_its_own_folder_is_used(tmp_path):
    begun = new_scratch(tmp_path / "a")
    with scratch_folder(begun):
        assert own_scratch(str(begun), tmp_path / "b") == begun
    assert not (tmp_path / "b").exists()
