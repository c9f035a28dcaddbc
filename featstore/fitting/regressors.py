"""The regressors by name, which predict a number: their defaults with reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.fitting.classifiers import CLASSIFIERS
from featstore.fitting.estimators import Classifier, imported_on_call
from featstore.fitting.grids import gammas, logarithmic

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.compose import TransformedTargetRegressor

Ridge = imported_on_call("sklearn.linear_model", "Ridge")
KernelRidge = imported_on_call("sklearn.kernel_ridge", "KernelRidge")
KNeighborsRegressor = imported_on_call("sklearn.neighbors", "KNeighborsRegressor")
MLPRegressor = imported_on_call("sklearn.neural_network", "MLPRegressor")


def _standardising(regressor: BaseEstimator) -> TransformedTargetRegressor:
    """Return a regressor of the standardised number: KernelRidge has no intercept."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.preprocessing import StandardScaler

    return TransformedTargetRegressor(regressor, transformer=StandardScaler())


REGRESSORS = {
    regressor.name: regressor
    for regressor in (
        # 840 images of NWPU-RESISC45, MobileNetV2's last convolution, two numbers computed from the
        # pixels (green, edges), 5-fold cross-validation: R² 0.64 and 0.78 at alpha=100, 0.67 and
        # 0.79 at 316, 0.66 and 0.78 at 1000, 0.41 and 0.61 at scikit-learn's 1.
        Classifier(
            "ridge",
            Ridge,
            sized=CLASSIFIERS["ridge"].sized,
            space=lambda p: {"alpha": logarithmic(0, 4.5, 10)},
            streams=True,
        ),
        # The same: 0.67 and 0.76 at alpha=0.1, 0.59 and 0.70 at scikit-learn's 1. Its gamma is
        # 1 / n_features; a quarter of it gives 0.70 and 0.81.
        Classifier(
            "kernel-ridge",
            KernelRidge,
            {"kernel": "rbf", "alpha": 0.1},
            space=lambda p: {"alpha": logarithmic(-3, 1, 5), "gamma": gammas(p)},
            predicts_slowly=True,
            wrap=_standardising,
        ),
        # On raw features, as the classifier of the name.
        Classifier(
            "knn",
            KNeighborsRegressor,
            {"n_neighbors": 5, "algorithm": "brute"},
            space=CLASSIFIERS["knn"].space,
            scaled=False,
            predicts_slowly=True,
        ),
        # Trained on the standardised number; the last layer's weights give it back in its unit. The
        # table in docs/several-labels.md compares penalties.
        Classifier(
            "mlp",
            MLPRegressor,
            {"hidden_layer_sizes": (256,), "alpha": 10.0},
            {"early_stopping": True},
            space=lambda p: {"hidden_layer_sizes": [(64,), (256,)], "alpha": [1.0, 10.0, 100.0]},
            by_epochs=True,
            streams=True,
        ),
    )
}
