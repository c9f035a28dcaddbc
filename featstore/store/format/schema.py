"""Records: what featstore writes of sets, layers, journals and runs, and must find when it reads.

A digest tells that a record is as somebody wrote it, not that featstore did. What a hand has put
there is refused before anything is done with it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from featstore.config import FEATURE_DTYPES, SPLITS
from featstore.errors import CorruptionError
from featstore.io.files import read_json

TEXT = {"type": "string", "maxLength": 10_000, "pattern": "^[^\x00]*$"}


TEXTS = {"type": "array", "items": TEXT}


MAX_COUNT = 2**53


MAX_DENSE_CLASSES = 100
"""Classes up to which a run's confusion matrix has a count for every pair of classes."""


COUNT = {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}


WIDTH = {"type": "integer", "minimum": 1, "maximum": 2**31}


NUMBER = {"type": "number"}


FRACTION = {"type": "number", "minimum": -1, "maximum": 1}


FLAG = {"type": "boolean"}


NAME = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^(?!\\.)[^/\\\\\x00]*$"}
"""Of a file or folder: no way out of where it lies."""


LAYER_NAME = {
    "type": "string",
    "maxLength": 200,
    "pattern": "^(?!\\.)[!-.0-\\[\\]-~]+$",
    "not": {"const": "zarr.json"},
}
"""Of a layer, which names files, and a folder beside the group's own file."""


SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


FILES = {
    "type": "object",
    "propertyNames": {
        "maxLength": 1000,
        "pattern": "^(?!/)(?![\\s\\S]*(^|/)\\.\\.?(/|$))[^\\\\\x00-\x1f]+$",
    },
    "additionalProperties": SHA256,
}


def _or_none(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
    }


_BACKBONE = _object(
    {
        "model": TEXT,
        "weights": TEXT,
        "weights_name": TEXT,
        "weights_path": _or_none(TEXT),
        "weights_sha256": TEXT,
        "precision": TEXT,
    }
)


_PREPROCESS = _object(
    {"image_size": _or_none(WIDTH), "bands": TEXT, "resize": TEXT},
    {
        "mean": {"type": "array", "items": NUMBER},
        "std": {"type": "array", "items": NUMBER},
        "decode": TEXT,
    },
)


_NUMERICS = _object(
    {"device": TEXT, "engine": TEXT, "batch_size": WIDTH}, {"nodes": TEXTS, "n_threads": WIDTH}
)


_MASKED = {"type": "array", "items": _object({"row": COUNT, "sample_id": TEXT, "error": TEXT})}


SET = _object(
    {
        "format": COUNT,
        "facets": _object(
            {
                "dataset": TEXT,
                "title": TEXT,
                "model": TEXT,
                "weights": TEXT,
                "weights_names": TEXTS,
                "bands": TEXT,
                "image_size": _or_none(WIDTH),
                "precision": TEXT,
                "dtype": {"enum": list(FEATURE_DTYPES)},
                "limit": _or_none(COUNT),
                "seed": COUNT,
            }
        ),
        "key": {"type": "object"},
        "dataset": _object(
            {
                "n_samples": WIDTH,
                "class_names": TEXTS,
                "fingerprint": TEXT,
                "identity": {"type": "object"},
            },
            {
                "bands": TEXTS,
                "root": _or_none(TEXT),
                "image_shape": _or_none({"type": "array", "items": WIDTH}),
            },
        ),
        "backbone": _BACKBONE,
        "preprocess": _PREPROCESS,
        "command": TEXT,
        "created": TEXT,
        "files": FILES,
    }
)
"""``set.json``: what a feature set is."""


LAYER = _object(
    {
        "request": {"type": "object"},
        "masked": _MASKED,
        "completed": TEXT,
        "command": TEXT,
        "node": TEXT,
        "names": TEXTS,
        "default": FLAG,
        "pool": _or_none(TEXT),
        "shape": {"type": "array", "items": WIDTH},
        "n_features": WIDTH,
        "n_computed": COUNT,
        "duration_s": NUMBER,
        "device": TEXT,
        "dtype": {"enum": list(FEATURE_DTYPES)},
        "numerics": _NUMERICS,
        "files": FILES,
    },
    {
        "layer": TEXT,
        "versions": {"type": "object", "additionalProperties": TEXT},
        "machine": {"type": "object"},
    },
)
"""``layers/<layer>.json``: a complete matrix."""


_NUMBERS = {"maxLength": 12, "pattern": "^[0-9]+$"}
"""Of chunks and rows, as names."""


JOURNAL = _object(
    {
        "layers": {
            "type": "object",
            "propertyNames": LAYER_NAME,
            "additionalProperties": _object(
                {
                    "chunks": {
                        "type": "object",
                        "propertyNames": _NUMBERS,
                        "additionalProperties": SHA256,
                    },
                    "spool": _or_none(_object({"chunk": COUNT, "n_rows": WIDTH, "crc32": COUNT})),
                    "metadata": SHA256,
                    "numerics": _NUMERICS,
                    "masked": {
                        "type": "object",
                        "propertyNames": _NUMBERS,
                        "additionalProperties": TEXT,
                    },
                    "command": TEXT,
                },
                {"damaged": {"type": "array", "items": COUNT}},
            ),
        }
    }
)
"""``journal/journal.json``, and those of shares: what is durable of unfinished layers."""


_SCORES = _object(
    {
        "n_samples": COUNT,
        "accuracy": FRACTION,
        "average_accuracy": FRACTION,
        "kappa": _or_none(FRACTION),
        "majority_accuracy": FRACTION,
        "per_class": {
            "type": "array",
            "items": _object(
                {
                    "name": TEXT,
                    "precision": FRACTION,
                    "recall": _or_none(FRACTION),
                    "f1": FRACTION,
                    "support": COUNT,
                }
            ),
        },
        # Its counts are looked at below: by a schema, thousands of them take tens of ms.
        "confusion": {"type": "array", "items": {"type": "array"}},
    }
)


RUN = _object(
    {
        "format": COUNT,
        "key": TEXT,
        "created": TEXT,
        "command": TEXT,
        "fit": _object(
            {
                "clf": TEXT,
                "params": {"type": "object"},
                "seed": COUNT,
                "split_seed": _or_none(COUNT),
                "drop_leaks": FLAG,
            }
        ),
        "params": {"type": "object"},
        "search": _or_none(
            _object(
                {
                    "kind": TEXT,
                    "best": {"type": "object"},
                    "candidates": {"type": "array"},
                    "cv": COUNT,
                    "accuracy": FRACTION,
                    "deviation": FRACTION,
                }
            )
        ),
        "selection": _object(
            {
                "dataset": TEXT,
                "title": TEXT,
                "model": TEXT,
                "layers": TEXTS,
                "weights": TEXT,
                "precision": TEXT,
                "n_samples": WIDTH,
                "n_features": WIDTH,
                "set_ids": {"type": "array", "items": NAME, "minItems": 1},
                "features": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object(
                        {
                            "set_id": NAME,
                            "layer": NAME,
                            "node": TEXT,
                            "pool": _or_none(TEXT),
                            "batch_size": WIDTH,
                            "n_features": WIDTH,
                            "backbone": _BACKBONE,
                            "preprocess": _PREPROCESS,
                        }
                    ),
                },
                "digest": TEXT,
            },
            {"fingerprint": TEXT},
        ),
        "class_names": TEXTS | {"minItems": 1},
        "rows": _object(
            {
                "n_train": COUNT,
                "n_test": COUNT,
                "n_val": COUNT,
                "test_split": {"enum": list(SPLITS)},
                "n_masked": COUNT,
                "n_unlabelled": COUNT,
                "n_leaked": _or_none(COUNT),
                "n_dropped": COUNT,
                "n_train_of_class": {"type": "array", "items": COUNT, "minItems": 1},
            }
        ),
        "n_constant_features": COUNT,
        "metrics": _object(
            {
                "test": _SCORES,
                "val": _or_none(_SCORES),
                "train": _object({"accuracy": FRACTION, "n_samples": COUNT}),
            }
        ),
        "score_kind": TEXT,
        "converged": FLAG,
        "notes": TEXTS,
        "duration_s": {
            "type": "object",
            "required": ["total"],
            "additionalProperties": NUMBER,
        },
        "peak_rss_nbytes": COUNT,
        "provenance": _object(
            {
                "versions": {
                    "type": "object",
                    "required": ["scikit-learn"],
                    "additionalProperties": TEXT,
                },
                "machine": _object({"processor": TEXT, "n_cores": COUNT}),
            }
        ),
        "files": FILES | {"required": ["model.skops", "predictions.csv"]},
    },
    {"source": _or_none(TEXT), "folder": NAME},
)
"""``metrics.json``: a run."""


def _misfit(record: dict[str, Any], kind: str, name: str, n_rows: int | None) -> str | None:
    """Return what parts of a record do not fit each other, of what is read together."""
    masked: dict[str, list[int]] = {}
    if kind == "LAYER":
        masked = {"masked": [entry["row"] for entry in record["masked"]]}
    if kind == "JOURNAL":
        layers = record["layers"].items()
        masked = {f"layers.{layer}.masked": [*map(int, own["masked"])] for layer, own in layers}
    for place, rows in masked.items():
        if n_rows is not None and (beyond := max(rows, default=0)) >= n_rows:
            return f"{place}: row {beyond} of {n_rows} rows, which are numbered from 0"
    if kind == "LAYER":
        layer = re.escape(name)
        if f"{name}/zarr.json" not in record["files"]:
            return f"files: '{name}/zarr.json' is a required property"
        for file in record["files"]:
            if not re.fullmatch(rf"{layer}/(zarr\.json|c/[0-9]{{1,12}}/0)", file):
                return f"files: {file} is no file of {name}"
    if kind == "RUN":
        n_classes = len(record["class_names"])
        lengths = {"rows.n_train_of_class": record["rows"]["n_train_of_class"]}
        for split in ("test", "val"):
            own = record["metrics"][split]
            if own is None:
                continue
            lengths[f"metrics.{split}.per_class"] = own["per_class"]
            is_dense = n_classes <= MAX_DENSE_CLASSES
            if is_dense:
                lengths[f"metrics.{split}.confusion"] = own["confusion"]
            for i, row in enumerate(own["confusion"]):
                if not all(type(n) is int and 0 <= n <= MAX_COUNT for n in row):
                    return f"metrics.{split}.confusion.{i}: {row} are no counts"
                if is_dense:
                    lengths[f"metrics.{split}.confusion.{i}"] = row
                elif len(row) != 3 or max(row[:2]) >= n_classes:
                    return f"metrics.{split}.confusion.{i}: {row} are no two classes and a count"
        for place, values in lengths.items():
            if len(values) != n_classes:
                return f"{place}: {len(values)} values of {n_classes} classes"
    return None


@cache
def _validator(name: str) -> Any:
    # Imported when the first record is read: it is among the slower imports.
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    # To JSON, 3.0 is an integer. Nothing that is counted or numbered by it is.
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, v: type(v) is int)
    schemas = {"SET": SET, "LAYER": LAYER, "JOURNAL": JOURNAL, "RUN": RUN, "FILES": FILES}
    strict: Any = extend(Draft202012Validator, type_checker=types)  # type: ignore[no-untyped-call]
    return strict(schemas[name])


def named_files(files: Any) -> dict[str, str]:
    """Return a record's sha256 by file name, where all names lie below what it is a record of.

    Raises
    ------
    ValueError
        When they do not, or it is no such mapping.
    """
    if not _validator("FILES").is_valid(files):
        raise ValueError("no files that featstore writes")
    return dict(files)


def is_journal(content: Any) -> bool:
    """Return whether a journal's content is what featstore writes."""
    return bool(_validator("JOURNAL").is_valid(content))


CURES = {
    "JOURNAL": "Delete the file: extract computes again what it was of, and complete layers stay."
}


CURE = "Put back the file, or remove what it belongs to and make it again."


def read_record(path: Path, kind: str, n_rows: int | None = None) -> dict[str, Any]:
    """Return a record that :func:`featstore.io.files.write_json` wrote.

    Parameters
    ----------
    path : Path
    kind : str
        ``SET``, ``LAYER``, ``JOURNAL`` or ``RUN``.
    n_rows : int, optional
        Rows of the set that a layer or a journal is of, where they are to be looked at.

    Raises
    ------
    CorruptionError
        When its content does not fit its digest, or is not what featstore writes.
    StoreError
        When it can't be read.
    """
    return checked_record(read_json(path), path, kind, n_rows)


def checked_record(
    record: dict[str, Any], path: Path, kind: str, n_rows: int | None = None
) -> dict[str, Any]:
    """Return a record, read from `path`, if it is what featstore writes; see :func:`read_record`.

    Raises
    ------
    CorruptionError
        When it is not.
    """
    wrong: str | None
    if error := next(_validator(kind).iter_errors(record), None):
        wrong = f"{'.'.join(map(str, error.absolute_path)) or 'it'}: {error.message}"
    else:
        wrong = _misfit(record, kind, path.stem, n_rows)
    if wrong:
        raise CorruptionError(
            f"{path} holds what featstore does not write: {wrong[:300]}. {CURES.get(kind, CURE)}"
        )
    return record
