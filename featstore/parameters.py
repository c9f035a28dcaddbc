"""Parameters as they are typed: names, values, and which classifier they are meant for."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from featstore.classifiers import find_classifier
from featstore.errors import FitError


def parse_param(text: str) -> tuple[str, Any]:
    """Parse ``name=value`` or ``clf:name=value`` as typed on the command line.

    The value is a Python literal (``0.1``, ``None``, ``True``, ``(256, 128)``); what is none is
    text.

    Raises
    ------
    FitError
        When there is no name or no ``=``.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise FitError(f"{text!r} is not name=value, as in C=0.1 or mlp:hidden_layer_sizes=(64,).")
    try:
        return name, ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value.strip()


def parse_grid(text: str) -> tuple[str, tuple[Any, ...]]:
    """Parse ``name=value,value,...`` or ``clf:name=...``, the values as :func:`parse_param`'s.

    Raises
    ------
    FitError
        When there is no name, no ``=``, or no value.
    """
    name, equals, values = text.partition("=")
    if not equals or not name.strip() or not values.strip():
        raise FitError(f"{text!r} is not name=value,value,... as in C=0.01,0.1,1.")
    try:
        # In brackets, so that commas within a value's own brackets do not part it.
        return name.strip(), tuple(ast.literal_eval(f"[{values}]"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name.strip(), tuple(parse_param(f"{name}={one}")[1] for one in values.split(","))


def aim_params(
    params: Mapping[str, Any], names: Sequence[str], *, check: bool = True
) -> dict[str, dict[str, Any]]:
    """Give each classifier the parameters meant for it.

    Parameters
    ----------
    params : mapping
        Values by ``name``, for all classifiers, or ``clf:name``, for one.
    names : sequence of str
        Names of the classifiers to be fitted.
    check : bool
        Whether scikit-learn is asked if it takes the values.

    Returns
    -------
    dict
        For each classifier its own parameters, checked.

    Raises
    ------
    FitError
        When a parameter is aimed at a classifier that is not fitted, or is wrong.
    """
    aimed: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in params.items():
        owner, colon, param = key.rpartition(":")
        if colon and owner not in aimed:
            raise FitError(
                f"The parameter {key} is for {owner}, but only {', '.join(names)} will be fitted."
            )
        if not colon:
            for name in names:
                aimed[name].setdefault(param, value)
    for key, value in params.items():
        owner, colon, param = key.rpartition(":")
        if colon:
            aimed[owner][param] = value
    for name in names:
        try:
            if not check:
                continue
            find_classifier(name).params(aimed[name])
        except FitError as error:
            if len(names) == 1:
                raise
            raise FitError(
                f"{error} Aim a parameter at one classifier with clf:name=value."
            ) from error
    return aimed
