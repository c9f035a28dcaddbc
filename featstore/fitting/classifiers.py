"""The classifiers by name: their scikit-learn pipelines, and their defaults with reasons."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featstore.config import check_classifier
from featstore.environment import import_from
from featstore.errors import FitError
from featstore.fitting.grids import gammas, logarithmic

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline


def imported_on_call(module: str, name: str) -> Callable[..., BaseEstimator]:
    """Return a function that calls a class, whose module it imports only then.

    scikit-learn takes seconds to import, and earlier runs answer without it.
    """

    def build(*args: Any, **params: Any) -> BaseEstimator:
        built: BaseEstimator = getattr(importlib.import_module(module), name)(*args, **params)
        return built

    return build


LogisticRegression = imported_on_call("sklearn.linear_model", "LogisticRegression")
RidgeClassifier = imported_on_call("sklearn.linear_model", "RidgeClassifier")
SGDClassifier = imported_on_call("sklearn.linear_model", "SGDClassifier")
LinearDiscriminantAnalysis = imported_on_call(
    "sklearn.discriminant_analysis", "LinearDiscriminantAnalysis"
)
KNeighborsClassifier = imported_on_call("sklearn.neighbors", "KNeighborsClassifier")
MLPClassifier = imported_on_call("sklearn.neural_network", "MLPClassifier")
SVC = imported_on_call("sklearn.svm", "SVC")
LinearSVC = imported_on_call("sklearn.svm", "LinearSVC")
DeepBeliefNetwork = imported_on_call("featstore.fitting.solvers.dbn", "DeepBeliefNetwork")
SimilarityNeighbors = imported_on_call(
    "featstore.fitting.solvers.similarity", "SimilarityNeighbors"
)
TripletClassifier = imported_on_call("featstore.fitting.solvers.triplet", "TripletClassifier")

RESERVED = {
    "random_state": "--seed",
    "n_jobs": "--n-jobs",
    "verbose": None,
    "warm_start": None,
    # Scores are of single classes here, not of pairs.
    "decision_function_shape": None,
}
"""Parameters that featstore sets itself, and the option that sets them."""


CLASS_WEIGHT_HINT = (
    "Give balanced, or weights by class name, e.g. --param \"class_weight={'trees': 2}\"."
)


MAP_PARAMS = ("gamma", "n_components")
"""Parameters of the kernel map."""


LARGE = 10_000
"""Training rows beyond which early stopping holds out a tenth, as scikit-learn's
HistGradientBoostingClassifier does with ``early_stopping="auto"``."""


MANY_ROWS = 40_000
"""Training rows beyond which training by epochs takes large batches: one has a 200th of them."""


MANY_FEATURES = 1_000
"""Features from which a linear classifier's penalty is strongest. With fewer it is weaker, in
proportion: the squared length of a standardised row is about their number."""


Space = Callable[[int], dict[str, list[Any]]]


Sized = Callable[[int, int], dict[str, float]]


def _rounded(name: str, value: float) -> dict[str, float]:
    return {name: float(f"{value:.3g}")}


@dataclass(frozen=True)
class Classifier:
    """One classifier, or regressor, by name.

    `defaults` replace scikit-learn's, and `large` replace them beyond :data:`LARGE` training rows.
    `sized` replaces them for numbers of training rows and features.
    `space` gives the values that a search tries, by parameter, for a number of features.

    `scaled` says that features are standardised first; `ranged`, that they are brought between 0
    and 1 in place of it; `mapped`, that Nystroem's map of the RBF kernel comes next;
    `predicts_slowly`, that predictions cost more with more training rows;
    `by_epochs`, that a number of epochs can be set; `streams`, that training rows need not fit
    memory. `wrap` puts the estimator into another one, such as OneVsRestClassifier.
    """

    name: str
    estimator: Callable[..., BaseEstimator]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    large: Mapping[str, Any] = field(default_factory=dict)
    sized: Sized = lambda n_train, n_features: {}
    space: Space = lambda n_features: {}
    scaled: bool = True
    ranged: bool = False
    mapped: bool = False
    predicts_slowly: bool = False
    by_epochs: bool = False
    streams: bool = False
    wrap: Callable[[BaseEstimator], BaseEstimator] = lambda estimator: estimator

    def param_names(self) -> list[str]:
        """Return the names of the parameters that can be set."""
        own = set(self.estimator().get_params(deep=False)) - RESERVED.keys()
        return sorted(own | set(MAP_PARAMS if self.mapped else ()))

    def params(
        self, own: Mapping[str, Any], n_train: int = 0, n_features: int = 0
    ) -> dict[str, Any]:
        """Return the defaults with `own` in their places; refuse what scikit-learn refuses."""
        sized = self.sized(n_train, n_features) if n_train and n_features else {}
        params = {**self.defaults, **sized, **(self.large if n_train > LARGE else {}), **own}
        if not own:
            return params
        for name in own:
            if name in RESERVED:
                cure = f"use {RESERVED[name]}" if RESERVED[name] else "featstore sets it"
                raise FitError(f"{name} of {self.name} is not yours to set: {cure}.")
        valid = self.param_names()
        if unknown := sorted(set(own) - set(valid)):
            raise FitError(
                f"{self.name} has no parameter {', '.join(unknown)}. It has {', '.join(valid)}."
            )
        try:
            for _, step in self.pipeline(params, 0).steps:
                if hasattr(own_step := unwrapped(step), "_parameter_constraints"):
                    own_step._validate_params()
        except (ValueError, TypeError) as error:
            hint = f" {CLASS_WEIGHT_HINT}" if "'class_weight'" in str(error) else ""
            raise FitError(f"{self.name} can't take these parameters: {error}{hint}") from error
        return params

    def pipeline(self, params: Mapping[str, Any], seed: int) -> Pipeline:
        """Return the unfitted pipeline; `params` as :meth:`params` returned them."""
        from sklearn.kernel_approximation import Nystroem
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import MinMaxScaler, StandardScaler

        of_map = {k: v for k, v in params.items() if self.mapped and k in MAP_PARAMS}
        estimator = self.estimator(**{k: v for k, v in params.items() if k not in of_map})
        if "random_state" in estimator.get_params(deep=False):
            estimator.set_params(random_state=seed)
        steps: list[tuple[str, BaseEstimator]] = []
        if self.scaled and not isinstance(estimator, Pipeline):
            steps.append(("scale", StandardScaler()))
        if self.ranged:
            # New rows beyond the training rows' values become 0 or 1.
            steps.append(("range", MinMaxScaler(clip=True)))
        if self.mapped:
            steps.append(("map", Nystroem(**of_map, random_state=seed)))
        return Pipeline([*steps, ("clf", self.wrap(estimator))])

    def identity(self) -> dict[str, Any]:
        """Return what else a fit's result depends on, as JSON-able values: the user's own code."""
        if ":" not in self.name:
            return {}
        try:
            source = inspect.getsource(importlib.import_module(self.name.partition(":")[0]))
        except (OSError, TypeError):
            # A compiled module has none.
            return {}
        return {"source": hashlib.sha256(source.encode()).hexdigest()}


CLASSIFIERS = {
    classifier.name: classifier
    for classifier in (
        # docs/fitting.md compares the defaults with other values on all sets at hand: more features
        # than rows need a strong penalty, few features a weak one.
        Classifier(
            "logreg",
            LogisticRegression,
            {"C": 0.01, "max_iter": 1000},
            sized=lambda n, p: _rounded("C", 0.01 * max(1, MANY_FEATURES / p)),
            space=lambda p: {"C": logarithmic(-5, 0.5, 12)},
            streams=True,
        ),
        # dual="auto" solves the primal when rows exceed columns, as LinearSVC's manual advises.
        Classifier(
            "linear-svm",
            LinearSVC,
            {"C": 0.001, "dual": "auto"},
            sized=lambda n, p: _rounded("C", 0.001 * max(1, MANY_FEATURES / p)),
            space=lambda p: {"C": logarithmic(-6, -0.5, 12)},
            streams=True,
        ),
        # On NWPU-RESISC45 (doi:10.1109/JPROC.2017.2675998), 12 classes of 70 training images,
        # ResNet-50 v1's fc1000 and pool5, 5-fold cross-validation: C=10 gives 84.9 % and 85.7 %,
        # scikit-learn's C=1 83.8 % and 84.4 %.
        Classifier(
            "svm",
            SVC,
            {"kernel": "rbf", "C": 10.0},
            space=lambda p: {"C": [1.0, 3.0, 10.0, 30.0], "gamma": gammas(p)},
            predicts_slowly=True,
        ),
        Classifier(
            "mlp",
            MLPClassifier,
            {"hidden_layer_sizes": (256,)},
            {"early_stopping": True},
            space=lambda p: {
                "hidden_layer_sizes": [(64,), (256,)],
                "alpha": [1e-4, 1e-2, 1.0],
            },
            by_epochs=True,
            streams=True,
        ),
        # Logistic loss for probabilities; hinge, scikit-learn's default, has none.
        Classifier(
            "sgd",
            SGDClassifier,
            {"loss": "log_loss"},
            {"early_stopping": True},
            space=lambda p: {"alpha": logarithmic(-5, 0, 6)},
            by_epochs=True,
            streams=True,
        ),
        # DeepSat's classifier (Basu et al. 2015, doi:10.1145/2820783.2820816), whose rates, epochs
        # and batches are not known. On deepsat's features of 840 of these images, 5-fold
        # cross-validation: 69.9 %, and 68.7 % without the machines.
        Classifier(
            "dbn",
            DeepBeliefNetwork,
            {},
            {"early_stopping": True, "batch_size": "auto", "rbm_batch_size": 100},
            space=lambda p: {
                "hidden_layer_sizes": [(50, 50), (100, 100), (50, 50, 50)],
                "learning_rate_init": [1e-3, 1e-2],
            },
            scaled=False,
            ranged=True,
            by_epochs=True,
        ),
        # The head that the paper trains, with Figures 4 and 5: weights from features to classes
        # and nothing between. The same cross-validation: alpha=1 gives 85.8 % and 87.1 %,
        # scikit-learn's 0.0001 84.4 % and 85.6 %.
        Classifier(
            "softmax",
            MLPClassifier,
            {"hidden_layer_sizes": (), "max_iter": 250, "alpha": 1.0},
            {"early_stopping": True},
            space=lambda p: {"alpha": logarithmic(-2, 2, 5)},
            by_epochs=True,
            streams=True,
        ),
        # scikit-learn's alpha=1 nearly interpolates where features are about as many as rows.
        Classifier(
            "ridge",
            RidgeClassifier,
            {"alpha": 200.0},
            sized=lambda n, p: _rounded("alpha", 200 * min(1, p / MANY_FEATURES)),
            space=lambda p: {"alpha": logarithmic(0, 4.5, 10)},
            streams=True,
        ),
        Classifier(
            "lda",
            LinearDiscriminantAnalysis,
            {"solver": "lsqr", "shrinkage": 0.4},
            sized=lambda n, p: _rounded("shrinkage", 0.4 * min(1, p / n)),
            space=lambda p: {
                "shrinkage": [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95]
            },
            streams=True,
        ),
        # k=5 on raw features, as Corley et al. 2023 (arXiv:2305.13456) have it: standardising
        # takes UC Merced from 90.7 % to 77 %. They vote by their distance, which is better on most
        # sets at hand. Trees do not help beyond some tens of dimensions.
        Classifier(
            "knn",
            KNeighborsClassifier,
            {"n_neighbors": 5, "weights": "distance", "algorithm": "brute"},
            space=lambda p: {
                "n_neighbors": [1, 3, 5, 9, 15],
                "metric": ["euclidean", "cosine"],
                "weights": ["uniform", "distance"],
            },
            scaled=False,
            predicts_slowly=True,
        ),
        # The nearest-neighbor evaluation of DINO (arXiv:2104.14294): 10, 20, 100 or 200 neighbors.
        Classifier(
            "similarity-knn",
            SimilarityNeighbors,
            {"n_neighbors": 20},
            space=lambda p: {"n_neighbors": [5, 10, 20, 100], "temperature": [0.02, 0.07, 0.2]},
            scaled=False,
            predicts_slowly=True,
        ),
        # Triplets on stored features, after Liu and Huang 2018 (JSTARS 11(1):220-237). Three of
        # five folds of the 840 images: the nearest class mean is right for 86.1 % (pool5), knn for
        # 83.7 %. Hinges of 0.2 and 0.5 differ from the soft margin by 0.6 points at most.
        Classifier(
            "triplet",
            TripletClassifier,
            space=lambda p: {"n_components": [32, 128], "n_iter": [200, 500, 1000]},
        ),
        # The RBF kernel by 1,000 of the rows (Williams and Seeger 2001): an SVM for sizes that
        # the exact one does not end on. The same cross-validation: C=3 gives 87.1 % and 87.0 %.
        Classifier(
            "nystroem-svm",
            LinearSVC,
            {"C": 3.0, "n_components": 1000, "dual": "auto"},
            space=lambda p: {"C": logarithmic(-2, 2, 9), "gamma": gammas(p)},
            mapped=True,
        ),
    )
}


def unwrapped(estimator: Any) -> Any:
    """Return the estimator whose parameters a user sets, without what wraps it."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.multiclass import OneVsRestClassifier

    if isinstance(estimator, OneVsRestClassifier):
        return estimator.estimator
    return estimator.regressor if isinstance(estimator, TransformedTargetRegressor) else estimator


def find_classifier(name: str) -> Classifier:
    """Return one of :data:`CLASSIFIERS`, or the user's own as ``package.module:function``.

    The function, or class, is called without arguments and gives a scikit-learn classifier.
    """
    check_classifier(name)
    if ":" in name:
        from sklearn.base import is_classifier

        return import_estimator(name, is_classifier, "classifier")
    if name not in CLASSIFIERS:
        raise FitError(
            f"The images have one class each, which {name} can't predict. Choose "
            f"{', '.join(CLASSIFIERS)}, or package.module:function for one of your own."
        )
    return CLASSIFIERS[name]


@functools.cache
def import_estimator(name: str, is_right: Callable[[Any], bool], kind: str) -> Classifier:
    """Return the user's own classifier or regressor, named as ``package.module:function``."""
    from sklearn.base import BaseEstimator

    module_name, _, attribute = name.partition(":")
    import_from()
    try:
        make = getattr(importlib.import_module(module_name), attribute)
        estimator = make()
    except Exception as error:
        raise FitError(
            f"{name} can't be used: {type(error).__name__}: {error}. It must name a class or a "
            "function, called without arguments, in a module that can be imported from here."
        ) from error
    if not (isinstance(estimator, BaseEstimator) and is_right(estimator)):
        raise FitError(
            f"{name} gives a {type(estimator).__name__}, which is not a scikit-learn {kind}."
        )

    def build(**params: Any) -> BaseEstimator:
        built: BaseEstimator = make().set_params(**params)
        return built

    return Classifier(name, build)
