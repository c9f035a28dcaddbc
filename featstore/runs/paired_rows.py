"""Match the test rows of two runs by their names and true labels."""

from __future__ import annotations

import numpy as np

from featstore.config import LEVEL
from featstore.errors import ConfigError
from featstore.runs.run import Run
from featstore.text import run_text

OTHER_IMAGES = (
    "The runs may be of different images (their fingerprints differ): test images were "
    "matched by name and class alone. The outcome holds if images of one name show the "
    "same, as in a copy or with another --limit. Otherwise extract the features for both "
    "from the same images, and fit again."
)
"""What to say where the fingerprints of two runs' images differ."""


class PairedTest:
    """What comparisons of two runs say of their test, whatever they compare."""

    test: str
    p_value: float
    same_images: bool

    @property
    def significant(self) -> bool:
        """Whether the p-value is below 5 %."""
        return self.p_value < LEVEL

    @property
    def verdict(self) -> str:
        """The p-value, and the test in brackets."""
        p = "p < 0.0001" if self.p_value < 1e-4 else f"p = {self.p_value:.3g}"
        return f"{p} ({self.test})."

    @property
    def caution(self) -> str:
        """A warning about the images; empty if both runs are of the same images."""
        return "" if self.same_images else OTHER_IMAGES


Rows = dict[str, np.ndarray]
"""Columns of ``predictions.csv``."""


def paired_rows(a: Run, b: Run) -> tuple[Rows, Rows]:
    """Return the test rows of both runs in one order; refuse other rows, labels and tasks."""
    _check_labels(a, b)
    rows_a, rows_b = _test_rows(a), _test_rows(b)
    n_a, n_b = rows_a["sample_id"].size, rows_b["sample_id"].size
    shared, at_a, at_b = np.intersect1d(
        rows_a["sample_id"], rows_b["sample_id"], return_indices=True
    )
    rows_a, rows_b = (
        {name: column[at] for name, column in rows.items()}
        for rows, at in ((rows_a, at_a), (rows_b, at_b))
    )
    true_a, true_b = a.scoring.truth(rows_a), b.scoring.truth(rows_b)
    is_other = true_a != true_b
    other = np.flatnonzero(is_other.any(axis=1) if is_other.ndim > 1 else is_other)
    if shared.size < max(n_a, n_b) or other.size:
        found = f"of their {n_a:,} and {n_b:,} test rows they share {shared.size:,}"
        if other.size:
            first = other[0]
            what = "numbers" if not a.class_names else "true classes"
            texts = (_label_text(run, true[first]) for run, true in ((a, true_a), (b, true_b)))
            found += (
                f", and {other.size:,} of these have different {what}, the first being "
                f"{shared[first]} ({' and '.join(texts)})"
            )
        raise ConfigError(
            f"{a.run_id} and {b.run_id} can't be compared: {found}. Both must have the same test "
            "rows: extract the features for both from the same images, with the same "
            "--dataset, --limit and --seed, and fit both with the same --split-seed, or without."
        )
    return rows_a, rows_b


def _check_labels(a: Run, b: Run) -> None:
    """Refuse runs whose labels say different things."""
    differing = ""
    if a.task != b.task:
        differing = f"the first is of the task {a.task}, the second of {b.task}"
    elif a.record.target_name != b.record.target_name:
        differing = f"they predict {a.record.target_name} and {b.record.target_name}"
    elif a.task == "multilabel" and a.class_names != b.class_names:
        differing = f"they have other classes ({len(a.class_names)} and {len(b.class_names)})"
    if differing:
        raise ConfigError(f"{a.run_id} and {b.run_id} can't be compared: {differing}.")


def _label_text(run: Run, label: np.ndarray) -> str:
    if np.ndim(label):
        return "; ".join(np.array(run.class_names)[label > 0]) or "no class"
    return str(label)


def _test_rows(run: Run) -> Rows:
    test = run.predictions["split"] == run.record.rows.test_split
    return {name: column[test] for name, column in run.predictions.items()}


def describe_both(a: Run, b: Run) -> tuple[str, str]:
    """Return network, layers and classifier of two runs; their names if these are the same."""
    first, second = (
        run_text(run.selection.model, run.selection.weights, run.selection.layers, run.clf)
        for run in (a, b)
    )
    return (first, second) if first != second else (a.run_id, b.run_id)
