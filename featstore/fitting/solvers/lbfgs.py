"""Minimise by L-BFGS that asks for one evaluation at a time, so that many problems share a pass.

Liu and Nocedal 1989 (doi:10.1007/BF01589116), with the initial inverse Hessian given by the
caller instead of a multiple of the identity.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

N_PAIRS = 10
"""Steps that it remembers, as SciPy's L-BFGS-B does."""


ARMIJO = 1e-4
"""Share of the promised decrease that a step must bring (Nocedal and Wright 2006, 3.1)."""


NOISE = 1e-7
"""Relative error of a loss that is summed from float32."""


MAX_TRIES = 12
"""Shortenings of one step; after these, the loss shows nothing but noise."""


MAX_IDLE = 50
"""Steps without a new low of value or gradient; after these, the loss shows nothing but noise."""


class LBFGS:
    """One minimisation by ask-and-tell: evaluate the function at :attr:`point`, then :meth:`tell`.

    `precondition` multiplies a gradient by an estimate of the inverse Hessian, which is symmetric
    and positive definite. The end is a gradient without a component larger than `tol` (SciPy's
    ``gtol``), or `max_iter` steps.

    :attr:`best` is the lowest point so far. :attr:`converged` says that the minimum is reached to
    `tol`, or to the precision of the function.
    """

    def __init__(
        self,
        start: np.ndarray,
        precondition: Callable[[np.ndarray], np.ndarray],
        tol: float,
        max_iter: int,
    ) -> None:
        self.point = self.best = start
        self.n_iter = 0
        self.is_done = self.converged = False
        self._precondition = precondition
        self._tol, self._max_iter = tol, max_iter
        self._pairs: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=N_PAIRS)
        self._value = np.inf
        self._gradient = np.zeros_like(start)
        self._direction = np.zeros_like(start)
        self._slope, self._step, self._n_tries = 0.0, 1.0, 0
        self._smallest = self._lowest = np.inf
        self._n_idle = 0

    def tell(self, value: float, gradient: np.ndarray) -> None:
        """Take the function's value and gradient at :attr:`point`, and choose the next point."""
        if np.isinf(self._value):
            if not np.isfinite(value):
                raise FloatingPointError("The loss is not finite where training begins.")
            self._accept(value, gradient)
            return
        promised = ARMIJO * self._step * self._slope
        if not value <= self._value + promised + NOISE * abs(self._value):
            self._shorten(value)
            return
        s, y = self.point - self.best, gradient - self._gradient
        curvature = _dot(s, y)
        if curvature > 1e-10 * _dot(y, y):
            self._pairs.append((s, y, 1.0 / curvature))
        self.n_iter += 1
        self._accept(value, gradient)

    def _shorten(self, value: float) -> None:
        self._n_tries += 1
        if self._n_tries > MAX_TRIES:
            self._end(converged=True)
            return
        # The lowest point of the parabola through the known values on this line.
        excess = value - self._value - self._step * self._slope
        lowest = -self._slope * self._step**2 / (2 * excess) if np.isfinite(excess) else 0.0
        self._step = float(np.clip(lowest, 0.1 * self._step, 0.5 * self._step))
        self.point = self.best + self._step * self._direction

    def _accept(self, value: float, gradient: np.ndarray) -> None:
        self.best, self._value, self._gradient = self.point, value, gradient
        largest = float(np.abs(gradient).max())
        if largest < self._smallest or value < self._lowest - NOISE * abs(self._lowest):
            self._n_idle = 0
        else:
            self._n_idle += 1
        self._smallest, self._lowest = min(self._smallest, largest), min(self._lowest, value)
        if largest <= self._tol or self._n_idle >= MAX_IDLE:
            self._end(converged=True)
        elif self.n_iter >= self._max_iter:
            self._end(converged=False)
        else:
            self._direction = -self._multiply(gradient)
            self._slope = _dot(self._direction, gradient)
            self._step, self._n_tries = 1.0, 0
            self.point = self.best + self._direction

    def _end(self, *, converged: bool) -> None:
        self.point, self.is_done, self.converged = self.best, True, converged

    def _multiply(self, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient times the inverse Hessian's estimate, by the two-loop recursion."""
        q = gradient.copy()
        shares = []
        for s, y, rho in reversed(self._pairs):
            shares.append(rho * _dot(s, q))
            q -= shares[-1] * y
        r = self._precondition(q)
        if self._pairs:
            _, y, rho = self._pairs[-1]
            r *= 1.0 / (rho * _dot(y, self._precondition(y)))
        for (s, y, rho), share in zip(self._pairs, reversed(shares), strict=True):
            r += s * (share - rho * _dot(y, r))
        return r


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(a, b))
