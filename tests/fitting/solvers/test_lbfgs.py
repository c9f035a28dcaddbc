import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

from featstore.fitting.solvers.lbfgs import LBFGS, MAX_TRIES


def minimise(function, start, precondition=np.copy, tol=1e-8, max_iter=500):
    """Return the ended descent, and at how many points the function was asked for."""
    descent = LBFGS(np.array(start, float), precondition, tol, max_iter)
    n_asked = 0
    while not descent.is_done:
        descent.tell(*function(descent.point))
        n_asked += 1
        assert n_asked < 5000
    return descent, n_asked


def quadratic(scales):
    scales = np.asarray(scales)
    return lambda w: (0.5 * float(np.sum(scales * (w - 1) ** 2)), scales * (w - 1))


def test_a_quadratic_is_solved_in_one_step_with_its_own_inverse():
    scales = 10.0 ** np.arange(-3, 4)
    descent, n_asked = minimise(quadratic(scales), np.zeros(7), lambda g: g / scales)
    assert descent.converged
    np.testing.assert_allclose(descent.best, np.ones(7), atol=1e-12)
    assert (descent.n_iter, n_asked) == (1, 2)


@pytest.mark.parametrize("shape", [(6,), (3, 2)])
def test_without_the_inverse_it_takes_more_steps_to_the_same_end(shape):
    scales = 10.0 ** np.linspace(-1, 2, 6).reshape(shape)
    descent, _ = minimise(quadratic(scales), np.zeros(shape))
    assert descent.converged
    assert 3 < descent.n_iter < 60
    np.testing.assert_allclose(descent.best, np.ones(shape), atol=1e-6)


def test_a_curved_valley_is_followed_to_its_lowest_point():
    descent, n_asked = minimise(lambda w: (rosen(w), rosen_der(w)), [-1.2, 1.0, -0.5, 2.0])
    assert descent.converged
    np.testing.assert_allclose(descent.best, np.ones(4), atol=1e-6)
    assert n_asked < 150


@pytest.mark.parametrize("start", [0.05, -0.3])
def test_where_the_function_is_not_convex_it_still_descends(start):
    def function(w):
        return float((w[0] ** 2 - 1) ** 2), 4 * w * (w**2 - 1)

    descent, _ = minimise(function, [start], lambda g: 0.1 * g)
    assert descent.best[0] == pytest.approx(np.sign(start), abs=1e-6)


def test_along_a_slope_it_goes_on():
    descent, _ = minimise(lambda w: (float(w.sum()), np.ones(2)), np.zeros(2), max_iter=5)
    assert (descent.n_iter, descent.converged) == (5, False)
    np.testing.assert_array_equal(descent.best, [-5, -5])


def test_it_never_climbs_and_ends_with_its_lowest_point():
    values = []

    def function(w):
        values.append(rosen(w))
        return values[-1], rosen_der(w)

    descent = LBFGS(np.array([-1.2, 1.0]), np.copy, 1e-9, 500)
    best = np.inf
    while not descent.is_done:
        descent.tell(*function(descent.point))
        reached = rosen(descent.best)
        assert reached <= best * (1 + 1e-6)
        best = reached
    assert best == pytest.approx(min(values), abs=1e-12)
    np.testing.assert_array_equal(descent.point, descent.best)


def test_tol_bounds_the_largest_component_of_the_gradient():
    function = quadratic(10.0 ** np.linspace(-1, 2, 6))
    for tol in (1e-1, 1e-3, 1e-6):
        descent, _ = minimise(function, np.zeros(6), tol=tol)
        assert np.abs(function(descent.best)[1]).max() <= tol
    exact, n_asked = minimise(function, np.ones(6))
    assert (exact.converged, exact.n_iter, n_asked) == (True, 0, 1)


@pytest.mark.parametrize("max_iter", [1, 3])
def test_max_iter_is_kept_to_and_told(max_iter):
    descent, _ = minimise(lambda w: (rosen(w), rosen_der(w)), [-1.2, 1.0], max_iter=max_iter)
    assert (descent.n_iter, descent.converged) == (max_iter, False)


def test_where_only_noise_is_left_it_ends_as_converged():
    rng = np.random.default_rng(0)

    def function(w):
        value, gradient = quadratic(np.ones(3))(w)
        return (10 + value) * (1 + 1e-5 * rng.random()), gradient + 1e-3 * rng.normal(size=3)

    descent, n_asked = minimise(function, np.zeros(3), tol=1e-12)
    assert descent.converged
    assert n_asked < 100
    np.testing.assert_allclose(descent.best, np.ones(3), atol=0.02)


def test_a_tolerance_below_the_noise_is_not_sought_for_ever():
    rng = np.random.default_rng(0)

    def function(w):
        value, gradient = quadratic(10.0 ** np.arange(3))(w)
        return (1 + value) * (1 + 1e-8 * rng.random()), gradient + 1e-6 * rng.normal(size=3)

    descent, n_asked = minimise(function, np.zeros(3), tol=1e-8, max_iter=2000)
    assert descent.converged
    assert n_asked < 500


def test_a_step_to_where_there_is_no_number_is_shortened():
    def function(w):
        if w[0] <= 0:
            return np.nan, np.full(1, np.nan)
        return float(w[0] - np.log(w[0])), 1 - 1 / w

    descent, _ = minimise(function, [5.0], lambda g: 100 * g)
    assert descent.converged
    assert descent.best[0] == pytest.approx(1, abs=1e-6)


def test_infinity_ends_the_tries_of_a_step():
    def function(w):
        return (0.0, np.ones(1)) if w[0] == 0 else (np.inf, np.ones(1))

    descent, n_asked = minimise(function, [0.0])
    assert descent.best[0] == 0
    assert n_asked == MAX_TRIES + 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_number_at_the_start_is_an_error(value):
    descent = LBFGS(np.zeros(2), np.copy, 1e-4, 10)
    with pytest.raises(FloatingPointError, match="not finite where training begins"):
        descent.tell(value, np.zeros(2))


def test_the_start_is_left_as_it_is():
    start = np.zeros(6)
    minimise(quadratic(np.ones(6)), start)
    np.testing.assert_array_equal(start, np.zeros(6))
