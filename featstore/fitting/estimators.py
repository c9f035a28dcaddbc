"""What a classifier or regressor is: its scikit-learn pipeline, and the check of its parameters."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featstore.environment import import_from
from featstore.errors import FitError

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


Space = Callable[[int], dict[str, list[Any]]]


Sized = Callable[[int, int], dict[str, float]]


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


def unwrapped(estimator: Any) -> Any:
    """Return the estimator whose parameters a user sets, without what wraps it."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.multiclass import OneVsRestClassifier

    if isinstance(estimator, OneVsRestClassifier):
        return estimator.estimator
    return estimator.regressor if isinstance(estimator, TransformedTargetRegressor) else estimator


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
