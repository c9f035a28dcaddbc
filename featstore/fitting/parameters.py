"""Parse classifier parameters, and give each classifier its own."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from featstore.errors import FitError
from featstore.fitting.classifiers import find_classifier
from featstore.fitting.estimators import Classifier

NO_LITERAL = (ValueError, SyntaxError, MemoryError, RecursionError)
"""What Python raises for text that is no literal."""


def parse_param(text: str) -> tuple[str, Any]:
    """Parse ``name=value`` or ``clf:name=value`` as typed on the command line.

    The value is a Python literal (``0.1``, ``None``, ``(256, 128)``); any other is text.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise FitError(f"{text!r} is not name=value; give e.g. C=0.1.")
    try:
        return name, ast.literal_eval(value.strip())
    except NO_LITERAL:
        return name, value.strip()


def parse_grid(text: str) -> tuple[str, tuple[Any, ...]]:
    """Parse ``name=value,value,...`` or ``clf:name=...``, with values as in :func:`parse_param`."""
    name, equals, values = text.partition("=")
    if not equals or not name.strip() or not values.strip():
        raise FitError(f"{text!r} is not name=value,value,...; give e.g. C=0.01,0.1,1.")
    try:
        # In brackets, so that commas within a value's own brackets do not part it.
        return name.strip(), tuple(ast.literal_eval(f"[{values}]"))
    except NO_LITERAL:
        return name.strip(), tuple(parse_param(f"{name}={one}")[1] for one in values.split(","))


def assign_params(
    params: Mapping[str, Any],
    names: Sequence[str],
    find: Callable[[str], Classifier] = find_classifier,
    *,
    check: bool = True,
) -> dict[str, dict[str, Any]]:
    """Return each classifier's own parameters: those by ``name``, and by ``clf:name`` its own.

    With `check`, scikit-learn checks the values; `find` finds a classifier by its name.
    """
    assigned: dict[str, dict[str, Any]] = {name: {} for name in names}
    for_one: dict[str, Any] = {}
    for key, value in params.items():
        clf, colon, param = key.rpartition(":")
        if colon and clf not in assigned:
            raise FitError(
                f"The parameter {key} is for {clf}, but only {', '.join(names)} will be fitted."
            )
        if colon:
            for_one[key] = value
            continue
        for own in assigned.values():
            own[param] = value
    for key, value in for_one.items():
        clf, _, param = key.rpartition(":")
        assigned[clf][param] = value
    for name, own in assigned.items() if check else ():
        classifier = find(name)
        try:
            classifier.params(own)
        except FitError as error:
            if len(names) == 1:
                raise
            raise FitError(
                f"{error} To give a parameter to one classifier only, write clf:name=value."
            ) from error
    return assigned


def with_label_weights(params: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """Return `params` as scikit-learn takes them: class weights by label, not by class name.

    Classes that ``class_weight`` does not name weigh 1.
    """
    weights = params.get("class_weight")
    if not isinstance(weights, Mapping):
        return dict(params)
    labels = {name: label for label, name in enumerate(class_names)}
    if unknown := [name for name in weights if str(name) not in labels]:
        raise FitError(
            f"class_weight names the class {unknown[0]!r}, which the dataset does not have. Its "
            f"classes are {', '.join(map(repr, class_names[:20]))}"
            f"{' and more' if len(class_names) > 20 else ''}."
        )
    for name, weight in weights.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 <= weight < math.inf:
            raise FitError(
                f"class_weight gives {name!r} the weight {weight!r}; give a number from 0."
            )
    by_label = {label: 1.0 for label in labels.values()}
    by_label |= {labels[str(name)]: float(weight) for name, weight in weights.items()}
    return {**params, "class_weight": by_label}
