"""Write a selection as .npz, .npy, .parquet or .csv."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featstore.config import SPLITS
from featstore.errors import ConfigError
from featstore.io.files import atomic_write, resolve_link
from featstore.store.format.matrix import TEXT
from featstore.store.selection import Selection
from featstore.text import nbytes_text, no_formula

CSV_ROWS = 10_000
"""Rows of a Parquet or CSV file that are in memory at a time."""


MAX_TEXT_NBYTES = 2**30
"""Most bytes of the sample ids in an .npz file, unless the features have more."""


Columns = Mapping[str, np.ndarray]
"""More columns by name, each (n_samples,)."""


def export(selection: Selection, path: Path, columns: Columns | None = None) -> None:
    """Write features, labels, splits and sample ids to a file, in the format of its ending.

    ``.npz`` holds X, y, split, sample_id, valid, class_names and first_row; ``.npy`` holds X alone.
    ``.parquet`` and ``.csv`` have one row for each sample, with the columns sample_id, split,
    label, class, first_row and one for each feature. Of the windows of scenes, ``.parquet`` is
    GeoParquet: the column geometry holds the windows' cells.

    Parameters
    ----------
    selection : Selection
        What to export.
    path : Path
        The file; a complete new file replaces an old one.
    columns : mapping of str to ndarray, optional
        More columns, each (n_samples,), such as predicted classes; not for ``.npy``.

    Raises
    ------
    ConfigError
        When the path has another ending, pyarrow is not installed for ``.parquet``, or one sample
        id is so long that ``.npz``, which gives all the width of the longest, would be huge.
    """
    writers: dict[str, Callable[[Selection, Path, Columns], None]] = {
        ".npz": _npz,
        ".npy": _npy,
        ".parquet": _parquet,
        ".csv": _csv,
    }
    if path.suffix not in writers:
        raise ConfigError(
            f"{path.name} ends in {path.suffix or 'nothing'}; features are exported to "
            f"{', '.join(writers)}."
        )
    with atomic_write(resolve_link(path)) as temporary:
        writers[path.suffix](selection, temporary, columns or {})


def _npz(selection: Selection, path: Path, columns: Columns) -> None:
    X, ids = selection.memmap(), selection.sample_ids
    # NumPy would pickle an array of another type, and readers refuse that.
    n_characters = max(map(len, ids))
    nbytes = 4 * n_characters * len(ids)
    if nbytes > max(MAX_TEXT_NBYTES, X.nbytes):
        raise ConfigError(
            f"A sample id has {n_characters:,} characters, and with this width the ids of "
            f"{len(ids):,} rows take {nbytes_text(nbytes)} as .npz. Export to "
            ".parquet or .csv."
        )
    more: dict[str, Any] = {
        name: values.astype(str) if values.dtype == TEXT else values
        for name, values in columns.items()
    }
    with path.open("wb") as stream:
        np.savez(
            stream,
            X=X,
            y=selection.y,
            split=np.array(SPLITS)[selection.splits],
            sample_id=ids.astype(f"U{n_characters}"),
            valid=selection.valid,
            class_names=np.array(selection.class_names),
            first_row=selection.first_rows,
            **more,
        )


def _npy(selection: Selection, path: Path, columns: Columns) -> None:
    if columns:
        raise ConfigError(
            f".npy holds the features alone, not {', '.join(columns)}. Export to .npz, .parquet or "
            ".csv."
        )
    with path.open("wb") as stream:
        np.save(stream, selection.memmap())


def _frame(selection: Selection, columns: Columns, start: int, stop: int) -> pd.DataFrame:
    labels = selection.y[start:stop]
    names = np.array([*selection.class_names, ""], TEXT)
    features = [f"{layer}.{i}" for layer, n in _widths(selection) for i in range(n)]
    X = pd.DataFrame(np.asarray(selection.memmap()[start:stop]), columns=features)
    about = pd.DataFrame(
        {
            "sample_id": selection.sample_ids[start:stop].tolist(),
            "split": np.array(SPLITS)[selection.splits[start:stop]],
            "label": labels,
            "class": names[labels].tolist(),
            "first_row": selection.first_rows[start:stop],
            **{name: values[start:stop] for name, values in columns.items()},
        }
    )
    return pd.concat([about, X], axis=1)


def _widths(selection: Selection) -> list[tuple[str, int]]:
    widths = [spec.n_features for spec in selection.feature_specs]
    return list(zip(selection.layers, widths, strict=True))


def _parquet(selection: Selection, path: Path, columns: Columns) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "Parquet needs pyarrow: pip install pyarrow. Or export to .npz or .csv."
        ) from error
    writer, footprints = None, selection.footprints
    try:
        for start in range(0, selection.n_samples, CSV_ROWS):
            stop = min(start + CSV_ROWS, selection.n_samples)
            frame = _frame(selection, columns, start, stop)
            rows = pyarrow.Table.from_pandas(frame, preserve_index=False)
            if footprints is not None:
                cells = pyarrow.array(footprints.wkb(start, stop), pyarrow.binary())
                about = {**rows.schema.metadata, b"geo": footprints.metadata()}
                rows = rows.append_column("geometry", cells).replace_schema_metadata(about)
            writer = writer or pyarrow.parquet.ParquetWriter(path, rows.schema)
            writer.write_table(rows)
    finally:
        if writer is not None:
            writer.close()


def _csv(selection: Selection, path: Path, columns: Columns) -> None:
    for start in range(0, selection.n_samples, CSV_ROWS):
        frame = _frame(selection, columns, start, min(start + CSV_ROWS, selection.n_samples))
        for column in ("sample_id", "class", *(k for k, v in columns.items() if v.dtype == TEXT)):
            frame[column] = frame[column].map(no_formula)
        # Python quotes a name with a line end only if the file has the same line ends.
        frame.to_csv(path, mode="a", header=start == 0, index=False, lineterminator="\r\n")
