"""Run a small study of generated images, with pretrained weights if they can be found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from featstore.progress import SILENT, Progress
from featstore.store.feature_store import FeatureStore
from featstore.study import Outcome, Study, reproduce

MODEL = "mobilenet_v2"
"""The quickest of torchvision's good networks on a CPU, and the one whose genuine ImageNet
weights also come as a package."""


CLASSIFIERS = ("logreg", "mlp")


@dataclass(frozen=True)
class Demo:
    """The study's outcome, the path of its report, and a sentence about its weights."""

    outcome: Outcome
    report: Path
    weights: str


def run_demo(
    store: FeatureStore,
    root: str | None = None,
    *,
    report: Path = Path("report.html"),
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Demo:
    """Generate images below `root`, extract their features, fit classifiers and write the report.

    `seed` is that of the images and the classifiers.
    """
    study = Study(("demo",), (MODEL,), CLASSIFIERS, root, limit, seed)
    outcome = reproduce(study, store, report, progress=progress)
    used = {run.selection.weights for run in outcome.runs if run.selection.model == MODEL}
    weights = f"{MODEL} with its real ImageNet weights ({', '.join(used)})"
    if outcome.left_out:
        # The study left out what lacks weights; the demo takes random ones.
        outcome = reproduce(
            replace(study, weights=f"random:{seed}"), store, report, progress=progress
        )
        weights = (
            f"{MODEL} with RANDOM weights, as the pretrained ones can't be had: its features "
            "are far worse than those of trained weights"
        )
    return Demo(outcome, report, weights)
