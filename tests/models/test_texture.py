from __future__ import annotations

import numpy as np
import pytest

from featstore.models import texture
from featstore.models.texture import N_LEVELS, TEXTURE, count_pairs, texture_features

# The image of Haralick et al. 1973, and their matrices of its four directions, added by hand.
HARALICK = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 2, 2, 2], [2, 2, 3, 3]], np.uint8)
PAIRS = np.array([[16, 4, 6, 0], [4, 12, 5, 0], [6, 5, 12, 6], [0, 0, 6, 2]])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def both_orders(counts):
    matrix = counts.reshape(-1, N_LEVELS, N_LEVELS)
    return matrix + matrix.transpose(0, 2, 1)


def features(planes):
    return dict(zip(TEXTURE, texture_features(count_pairs(planes, planes.shape[1])).T, strict=True))


def reference(p):
    """Return the features of one matrix by their formulas, pair of levels by pair of levels."""
    pairs = [(i, j, p[i - 1, j - 1]) for i in range(1, 17) for j in range(1, 17)]
    mean = sum(i * q for i, _, q in pairs)
    variance = sum((i - mean) ** 2 * q for i, _, q in pairs)
    cov = sum((i - mean) * (j - mean) * q for i, j, q in pairs)
    by_sum, by_gap = np.zeros(33), np.zeros(16)
    for i, j, q in pairs:
        by_sum[i + j] += q
        by_gap[abs(i - j)] += q
    rows = p.sum(axis=1)
    product = np.outer(rows, rows)

    def entropy(q, of=None):
        of = q if of is None else of
        return -sum(a * np.log(b) for a, b in zip(q.ravel(), of.ravel(), strict=True) if a > 0)

    savgh, dissi = np.arange(33) @ by_sum, np.arange(16) @ by_gap
    return {
        "autoc": sum(i * j * q for i, j, q in pairs),
        "contr": sum((i - j) ** 2 * q for i, j, q in pairs),
        "corrm": cov / variance,
        "cprom": sum((i + j - 2 * mean) ** 4 * q for i, j, q in pairs),
        "cshad": sum((i + j - 2 * mean) ** 3 * q for i, j, q in pairs),
        "dissi": sum(abs(i - j) * q for i, j, q in pairs),
        "energ": sum(q**2 for _, _, q in pairs),
        "entro": entropy(p),
        "homom": sum(q / (1 + abs(i - j)) for i, j, q in pairs),
        "homop": sum(q / (1 + (i - j) ** 2) for i, j, q in pairs),
        "maxpr": p.max(),
        "sosvh": variance,
        "savgh": savgh,
        "svarh": (np.arange(33) - savgh) ** 2 @ by_sum,
        "senth": entropy(by_sum),
        "dvarh": (np.arange(16) - dissi) ** 2 @ by_gap,
        "denth": entropy(by_gap),
        "inf1h": (entropy(p) - entropy(p, product)) / entropy(rows),
        "inf2h": np.sqrt(1 - np.exp(-2 * (entropy(product) - entropy(p)))),
        "indnc": sum(q / (1 + abs(i - j) / 16) for i, j, q in pairs),
        "idmnc": sum(q / (1 + (i - j) ** 2 / 256) for i, j, q in pairs),
        "invvr": sum(q / (i - j) ** 2 for i, j, q in pairs if i != j),
        "mean": mean,
        "std": np.sqrt(variance),
        "moment2": sum(i**2 * q for i, _, q in pairs),
        "cov": cov,
    }


def test_pairs_are_those_of_haralicks_example():
    found = both_orders(count_pairs(16 * HARALICK[None], 4))[0]
    np.testing.assert_array_equal(found[:4, :4], PAIRS)
    assert found.sum() == PAIRS.sum() == 84


def test_features_are_those_computed_by_hand():
    found = features(16 * HARALICK[None])
    expected = {
        "contr": 78 / 84,
        "dissi": 54 / 84,
        "energ": 774 / 84**2,
        "homop": (42 + 2 * (4 / 2 + 6 / 5 + 5 / 2 + 6 / 2)) / 84,
        "maxpr": 16 / 84,
        "mean": (1 * 26 + 2 * 21 + 3 * 29 + 4 * 8) / 84,
        "autoc": (16 + 4 * 12 + 9 * 12 + 16 * 2 + 2 * (2 * 4 + 3 * 6 + 6 * 5 + 12 * 6)) / 84,
    }
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value), name


def test_features_are_their_formulas():
    planes = np.stack([noise(9, 12), noise(9, 12, seed=1) // 3, noise(9, 12, seed=2) // 100 * 90])
    found = features(planes)
    for row, matrix in enumerate(both_orders(count_pairs(planes, 9))):
        expected = reference(matrix / matrix.sum())
        assert set(expected) == set(TEXTURE)
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, rel=1e-9, abs=1e-9), name


def test_features_are_those_of_scikit_image():
    measure = pytest.importorskip("skimage.feature")
    planes = noise(2, 20, 30)
    found = features(planes)
    for row, plane in enumerate(planes):
        angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
        matrix = measure.graycomatrix(plane >> 4, [1], angles, levels=16, symmetric=True)
        whole = matrix.sum(axis=3, keepdims=True).astype(float)
        whole /= whole.sum()
        for name, own in (
            ("contrast", "contr"),
            ("dissimilarity", "dissi"),
            ("homogeneity", "homop"),
            ("ASM", "energ"),
            ("correlation", "corrm"),
        ):
            assert found[own][row] == pytest.approx(measure.graycoprops(whole, name)[0, 0]), name


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (28, 28)])
@pytest.mark.parametrize("level", [0, 130, 255])
def test_planes_of_one_level_have_no_contrast(size, level):
    found = features(np.full((2, *size), level, np.uint8))
    assert all(np.isfinite(values).all() for values in found.values())
    for name in ("contr", "entro", "sosvh", "cov", "cshad", "inf1h", "inf2h", "invvr"):
        assert not found[name].any(), name
    assert (found["corrm"] == 1).all()
    # A single pixel has no pairs.
    n_pairs = size[0] * size[1] > 1
    assert (found["mean"] == n_pairs * (level // 16 + 1)).all()
    assert (found["energ"] == n_pairs).all()


@pytest.mark.parametrize("step", [1, 100, 1000])
def test_counts_do_not_depend_on_how_many_are_counted_at_a_time(monkeypatch, step):
    planes = noise(7, 9, 11)
    expected = count_pairs(planes, 9)
    by_rows = count_pairs(planes[:, :5], 4) + count_pairs(planes[:, 4:], 5)
    monkeypatch.setattr(texture, "STEP_PIXELS", step)
    np.testing.assert_array_equal(count_pairs(planes, 9), expected)
    np.testing.assert_array_equal(by_rows, expected)
