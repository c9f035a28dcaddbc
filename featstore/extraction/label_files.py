"""Read the labels, splits and ids of rows from files, arrays or a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import DatasetError, DatasetNotFoundError
from featstore.extraction.feature_files import COLUMNS, FeatureTable

if TYPE_CHECKING:
    import pandas
    from numpy.typing import ArrayLike

TABLES = (".csv", ".tsv", ".parquet")


def read_columns(
    table: FeatureTable,
    labels: str | Path | ArrayLike | None,
    sample_ids: str | Path | Sequence[str] | None,
    splits: Sequence[str] | None,
) -> dict[str, np.ndarray]:
    """Return the columns beside features: ``id``, ``label`` and ``split``, each (n_samples,).

    What is given replaces what the features' own file has. A table with a column ``id`` is put
    into the order of the ids.
    """
    n_samples = table.shape[0]
    columns = dict(table.columns)
    if sample_ids is not None:
        columns["id"] = _values(sample_ids, "sample_ids")
    if labels is not None and _is_file(labels) and Path(str(labels)).suffix.lower() in TABLES:
        columns |= _from_table(Path(str(labels)), columns.get("id"))
    elif labels is not None:
        columns["label"] = _values(labels, "labels")
    if splits is not None:
        columns["split"] = np.asarray(splits)
    for kind, values in columns.items():
        if values.shape != (n_samples,):
            raise DatasetError(
                f"There are {n_samples:,} rows of features and {len(values):,} values of {kind}; "
                "give one for each row."
            )
    ids = columns.get("id", np.array([f"row {i}" for i in range(n_samples)]))
    return columns | {"id": ids.astype(str)}


def _is_file(value: object) -> bool:
    return isinstance(value, str | Path)


def _values(given: Any, what: str) -> np.ndarray:
    if not _is_file(given):
        return np.asarray(given)
    path = Path(given).expanduser()
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} does not exist; give a file of {what}.")
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if path.suffix.lower() == ".txt":
            return np.array(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} can't be read: {error}") from error
    raise DatasetError(f"{path}: expected .npy, .txt, .csv, .tsv or .parquet.")


def _from_table(path: Path, ids: np.ndarray | None) -> dict[str, np.ndarray]:
    frame = _read_table(path)
    known = {name: kind for kind, names in COLUMNS.items() for name in names}
    found = {known[name]: np.asarray(frame[name]) for name in frame.columns if name in known}
    if "label" not in found:
        raise DatasetError(
            f"{path} has the columns {', '.join(map(str, frame.columns))}; expected one of the "
            f"name label."
        )
    if ids is None or "id" not in found:
        return found
    position = {name: row for row, name in enumerate(found["id"].astype(str).tolist())}
    if len(position) < len(frame):
        raise DatasetError(f"{path} has an id twice.")
    wanted = ids.astype(str).tolist()
    if lacking := [name for name in wanted if name not in position]:
        raise DatasetError(f"{path} has no row for the id {lacking[0]!r}.")
    order = [position[name] for name in wanted]
    return {kind: values[order] for kind, values in found.items()} | {"id": ids}


def _read_table(path: Path) -> pandas.DataFrame:
    import pandas

    if not path.is_file():
        raise DatasetNotFoundError(f"{path} does not exist; give a table of labels.")
    try:
        if path.suffix.lower() == ".parquet":
            return pandas.read_parquet(path)
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        return pandas.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except ImportError:
        raise DatasetError(f"{path}: Parquet needs pyarrow: pip install pyarrow.") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} can't be read: {error}") from error
