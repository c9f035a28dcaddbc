"""The regressors by name, which predict a number: their defaults with reasons."""

from __future__ import annotations

from sklearn.compose import TransformedTargetRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from featstore.fitting.classifiers import CLASSIFIERS, Classifier, gammas, logarithmic


def _standardising(regressor: KernelRidge) -> TransformedTargetRegressor:
    """Return a regressor of the standardised number: KernelRidge has no intercept."""
    return TransformedTargetRegressor(regressor, transformer=StandardScaler())


REGRESSORS = {
    regressor.name: regressor
    for regressor in (
        Classifier(
            "ridge",
            Ridge,
            {"alpha": 200.0},
            space=lambda p: {"alpha": logarithmic(0, 4.5, 10)},
            streams=True,
        ),
        # scikit-learn's gamma is 1 / n_features, which suits standardised features.
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
        # Trained on the standardised number; the last layer's weights give it back in its unit.
        Classifier(
            "mlp",
            MLPRegressor,
            {"hidden_layer_sizes": (256,)},
            {"early_stopping": True},
            space=CLASSIFIERS["mlp"].space,
            by_epochs=True,
            streams=True,
        ),
    )
}
