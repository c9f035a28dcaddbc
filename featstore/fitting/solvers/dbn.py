"""A deep belief network: stacked Boltzmann machines, then back-propagation through all of them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.neural_network import BernoulliRBM, MLPClassifier
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from featstore.fitting.solvers.blocks import row_blocks


class DeepBeliefNetwork(MLPClassifier):  # type: ignore[misc]
    """A network of sigmoid units whose layers begin as restricted Boltzmann machines.

    Each hidden layer is first trained, without labels, to model the one below it (Hinton et al.
    2006, doi:10.1162/neco.2006.18.7.1527), by scikit-learn's BernoulliRBM, which is persistent
    contrastive divergence (Tieleman 2008, doi:10.1145/1390156.1390290). Then all weights, and
    those of an output layer, are trained with labels by Adam, as in MLPClassifier.

    Features are between 0 and 1. The machines see the rows of the first call of ``partial_fit``.

    Parameters
    ----------
    hidden_layer_sizes : int or tuple of int
        Units of each hidden layer.
    rbm_epochs, rbm_batch_size, rbm_learning_rate : int, int, float
        ``n_iter``, ``batch_size`` and ``learning_rate`` of each BernoulliRBM; 0 epochs leave the
        machines out.
    alpha, batch_size, learning_rate_init, max_iter, tol, early_stopping, validation_fraction,
    n_iter_no_change, random_state
        Those of MLPClassifier.
    """

    _parameter_constraints = {
        **MLPClassifier._parameter_constraints,
        "rbm_epochs": [Interval(Integral, 0, None, closed="left")],
        "rbm_batch_size": [Interval(Integral, 1, None, closed="left")],
        "rbm_learning_rate": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100, 100),
        *,
        rbm_epochs: int = 20,
        rbm_batch_size: int = 10,
        rbm_learning_rate: float = 0.06,
        alpha: float = 1e-4,
        batch_size: int | str = 32,
        learning_rate_init: float = 1e-2,
        max_iter: int = 500,
        tol: float = 1e-4,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation="logistic",
            alpha=alpha,
            batch_size=batch_size,
            learning_rate_init=learning_rate_init,
            max_iter=max_iter,
            tol=tol,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            random_state=random_state,
        )
        self.rbm_epochs = rbm_epochs
        self.rbm_batch_size = rbm_batch_size
        self.rbm_learning_rate = rbm_learning_rate

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Train the machines, then all weights until they stop improving."""
        self._machines = self._train_machines(X)
        super().fit(X, y)
        return self

    def partial_fit(self, X: np.ndarray, y: np.ndarray, classes: Any = None) -> Self:
        """Train all weights for one epoch; the first time, the machines before."""
        if not hasattr(self, "coefs_"):
            self._machines = self._train_machines(X)
        super().partial_fit(X, y, classes=classes)
        return self

    def _train_machines(self, X: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return weights, (n_inputs, n_units), and biases of each hidden layer."""
        if not self.rbm_epochs:
            return []
        rng = check_random_state(self.random_state)
        # Datasets are sorted by class, and a machine takes rows as they come.
        below = np.asarray(X)[rng.permutation(len(X))]
        widths = self.hidden_layer_sizes
        found = []
        for width in [widths] if isinstance(widths, Integral) else widths:
            machine = BernoulliRBM(
                width,
                learning_rate=self.rbm_learning_rate,
                batch_size=self.rbm_batch_size,
                n_iter=self.rbm_epochs,
                random_state=rng,
            )
            below = machine.fit_transform(below)
            found.append((machine.components_.T, machine.intercept_hidden_))
        return found

    def _initialize(self, y: np.ndarray, layer_units: list[int], dtype: Any) -> None:
        """Begin with the machines' weights in place of random ones."""
        super()._initialize(y, layer_units, dtype)
        for layer, (weights, biases) in enumerate(self._machines):
            self.coefs_[layer][...] = weights
            self.intercepts_[layer][...] = biases
        del self._machines


def fit_range(scaler: MinMaxScaler, X: np.ndarray) -> np.ndarray:
    """Fit a scaler to rows, and return them between 0 and 1, (n_samples, n_features) float32."""
    blocks = row_blocks(*X.shape)
    for block in blocks:
        scaler.partial_fit(X[block])
    scaled = np.empty(X.shape, np.float32)
    for block in blocks:
        scaled[block] = scaler.transform(X[block])
    return scaled
