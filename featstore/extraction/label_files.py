"""Read the labels, splits, groups and ids of rows from files, sequences or a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featstore.datasets.formats.table_files import TABLE_SUFFIXES, open_table
from featstore.errors import DatasetError, DatasetNotFoundError
from featstore.extraction.feature_files import KINDS, FeatureTable, load_npy

Columns = dict[str, Any]
"""A sequence of values for each kind of column."""


def read_columns(
    table: FeatureTable, labels: Any, sample_ids: Any, splits: Any, groups: Any
) -> Columns:
    """Return the columns beside features: ``id``, and ``label``, ``split`` and ``group`` if known.

    What is given replaces what the features' own file has. A table with a column ``id`` is put
    into the order of the ids.
    """
    n_samples = table.shape[0]
    columns: Columns = dict(table.columns)
    if sample_ids is not None:
        columns["id"] = _values(sample_ids, "sample_ids")
    if _is_table(labels):
        columns |= _from_table(Path(labels).expanduser(), columns.get("id"))
    elif labels is not None:
        columns["label"] = _values(labels, "labels")
    columns |= {k: v for k, v in (("split", splits), ("group", groups)) if v is not None}
    for kind, values in columns.items():
        if len(values) != n_samples:
            raise DatasetError(
                f"There are {n_samples:,} rows of features and {len(values):,} values of {kind}; "
                "give one for each row."
            )
    ids = columns.get("id", [f"row {i}" for i in range(n_samples)])
    return columns | {"id": [str(one) for one in ids]}


def _is_file(value: object) -> bool:
    return isinstance(value, str | Path)


def _is_table(value: object) -> bool:
    return _is_file(value) and Path(str(value)).suffix.lower() in TABLE_SUFFIXES


def _values(given: Any, what: str) -> Any:
    if not _is_file(given):
        return given if hasattr(given, "__len__") else list(given)
    path = Path(given).expanduser()
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} does not exist; give a file of {what}.")
    try:
        if path.suffix.lower() == ".npy":
            return load_npy(path, "Save text or numbers: np.save(path, y.astype(str)).")
        if path.suffix.lower() == ".txt":
            return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} can't be read: {error}") from error
    raise DatasetError(f"{path}: expected .npy, .txt or a table ({', '.join(TABLE_SUFFIXES)}).")


def _from_table(path: Path, ids: Sequence[Any] | None) -> Columns:
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} does not exist; give a table of labels.")
    table = open_table(path)
    names = [name for name in table.columns if name in KINDS]
    if "label" not in (KINDS[name] for name in names):
        raise DatasetError(
            f"{path} has the columns {', '.join(table.columns)}; expected one of the name label."
        )
    found: dict[str, list[Any]] = {KINDS[name]: [] for name in names}
    for block in table.blocks(names):
        for name, values in zip(names, block, strict=True):
            found[KINDS[name]] += values
    if ids is None or "id" not in found:
        return {**found}
    position: dict[str, int] = {}
    for row, name in enumerate(map(str, found["id"])):
        if position.setdefault(name, row) != row:
            raise DatasetError(
                f"{table.row_name(row)}: its id {name!r} is that of row {position[name] + 1:,} too."
            )
    wanted = [str(name) for name in ids]
    if lacking := [name for name in wanted if name not in position]:
        raise DatasetError(f"{path} has no row for the id {lacking[0]!r}.")
    order = [position[name] for name in wanted]
    return {kind: [values[row] for row in order] for kind, values in found.items()}
