"""The demo: a small study of generated images, with the best weights at hand."""

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
    """What the demo made.

    Parameters
    ----------
    outcome : Outcome
    report : Path
        The HTML page.
    weights : str
        What weights were used, in a sentence.
    """

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
    """Generate images, extract their features, fit classifiers and write the report.

    Parameters
    ----------
    store : FeatureStore
        Where features and runs go.
    root : str, optional
        Where the generated file goes; see :func:`featstore.datasets.open_dataset`.
    report : Path
        The HTML page to write.
    limit : int, optional
        Use fewer images.
    seed : int
        Of the images and the classifiers.
    progress : Progress
        Told how it goes on.

    Raises
    ------
    FeatstoreError
        What :func:`featstore.study.reproduce` raises.
    """
    study = Study(("demo",), (MODEL,), CLASSIFIERS, root, limit, seed)
    outcome = reproduce(study, store, report, progress=progress)
    used = {run.selection.weights for run in outcome.runs if run.selection.model == MODEL}
    weights = f"{MODEL} with its real ImageNet weights ({', '.join(used)})"
    if outcome.left_out:
        # What the study left out for want of weights, the demo shows with others.
        outcome = reproduce(
            replace(study, weights=f"random:{seed}"), store, report, progress=progress
        )
        weights = (
            f"{MODEL} with RANDOM weights, since no pretrained ones could be had: the features "
            "are far worse than real ones"
        )
    return Demo(outcome, report, weights)
