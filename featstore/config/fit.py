"""The settings of one fit as a frozen, validated value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from featstore.config.checks import check_choice, check_integer, named_fields
from featstore.config.choices import FIT_NAMES, FOLDS, SCALES, SEARCHES
from featstore.errors import ConfigError, FitError
from featstore.io.files import json_digest
from featstore.text import did_you_mean


def check_classifier(name: str) -> str:
    """Return the name of a classifier, or of a user's own; refuse one that does not exist."""
    if ":" not in name and name not in FIT_NAMES:
        raise FitError(
            f"There is no classifier {name!r}.{did_you_mean(name, FIT_NAMES)} There are "
            f"{', '.join(FIT_NAMES)}, and package.module:function for one of your own."
        )
    return name


@dataclass(frozen=True)
class FitConfig:
    """One classifier to fit.

    Parameters
    ----------
    clf : str
        The classifier's name, such as ``logreg``, or ``package.module:function``.
    params : tuple of (str, Any)
        Parameters that replace the classifier's defaults, sorted by name.
    seed : int
        ``random_state`` of whatever is drawn at random, the folds among it.
    search : str or None
        How parameters are searched for by cross-validation on the training rows: ``grid``,
        ``random``, ``halving``; by the validation images (or a tenth of the training images), which
        then train too: ``validation``; or None for not at all.
    cv : int
        Folds of the search.
    n_candidates : int
        Parameter settings that ``random`` and ``halving`` draw.
    grid : tuple of (str, tuple)
        Values to search among, by parameter, in place of the classifier's own.
    n_epochs : int or None
        Epochs to train for, whatever the losses; None to stop when they no longer improve.
    split_seed : int or None
        Seeds a new division into training and test rows; None keeps the dataset's.
    drop_leaks : bool
        Whether to leave out test rows whose image is also among the training rows.
    scale : str or None
        ``standard`` to standardise features, ``none`` to take them as they are; None for what the
        classifier does by default.
    protocol : str or None
        The published protocol that the settings follow, for the record.
    calibrate : bool
        Whether to calibrate the probabilities of classes.
    device : str
        ``cpu``; ``cuda`` where scikit-learn computes on a GPU through the array API.
    intelex : bool
        Whether scikit-learn-intelex replaces what it can.

    Raises
    ------
    ConfigError
        When a value is out of its range or a parameter is named twice.
    """

    clf: str
    params: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    search: str | None = None
    cv: int = 5
    n_candidates: int = 20
    grid: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    n_epochs: int | None = None
    split_seed: int | None = None
    drop_leaks: bool = False
    scale: str | None = None
    protocol: str | None = None
    calibrate: bool = True
    device: str = "cpu"
    intelex: bool = False

    def __post_init__(self) -> None:
        check_integer("seed", self.seed, 0, 2**32 - 1)
        check_integer("cv", self.cv, *FOLDS)
        check_integer("n_candidates", self.n_candidates, 1, 100_000)
        if self.search is not None:
            check_choice("search", self.search, SEARCHES)
        if self.scale is not None:
            check_choice("scale", self.scale, SCALES)
        if self.n_epochs is not None:
            check_integer("n_epochs", self.n_epochs, 1, 1_000_000)
        if self.split_seed is not None:
            check_integer("split_seed", self.split_seed, 0, 2**32 - 1)
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device is {self.device!r}; it must be cpu, cuda or cuda:N.")
        for kind, pairs in (("parameter", self.params), ("grid", self.grid)):
            names = [name for name, _ in pairs]
            if len(set(names)) != len(names):
                raise ConfigError(f"A {kind} of {self.clf} is given twice: {', '.join(names)}.")
        if empty := [name for name, values in self.grid if not values]:
            raise ConfigError(f"The grid gives no values for {', '.join(empty)} of {self.clf}.")
        if self.grid and self.search is None:
            raise ConfigError("A grid of values is for a search: add --search grid.")
        for name, value in (*self.params, *self.grid):
            try:
                json.dumps(value, sort_keys=True)
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"{self.clf} is given {name}={value!r}, which can't be recorded ({error}). "
                    "Give numbers, text, or lists and mappings of these."
                ) from error
        object.__setattr__(self, "params", tuple(sorted(self.params)))
        object.__setattr__(self, "grid", tuple(sorted(self.grid)))

    @property
    def n_folds(self) -> int:
        """Folds that a search holds out: the validation images are one."""
        return 1 if self.search == "validation" else self.cv

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        pairs = {"params": dict(self.params), "grid": {k: list(v) for k, v in self.grid}}
        return {field.name: getattr(self, field.name) for field in fields(self)} | pairs

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_dict`'s result; unknown settings raise ConfigError."""
        named = named_fields(cls, values)
        params = tuple(dict(named.get("params", {})).items())
        grid = tuple((k, tuple(v)) for k, v in dict(named.get("grid", {})).items())
        return cls(**named | {"params": params, "grid": grid})

    def digest(self) -> str:
        """Return the sha256 (hex) of the settings."""
        return json_digest(self.to_dict())
