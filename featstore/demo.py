"""The demo: the whole of featstore on generated images, with the best weights at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.errors import WeightsError
from featstore.extraction import Extraction, extract
from featstore.progress import SILENT, Progress
from featstore.store import FeatureStore

if TYPE_CHECKING:
    from featstore.runs import Run

MODEL = "mobilenet_v2"
"""The quickest of torchvision's good networks on a CPU, and the one whose genuine ImageNet
weights also come as a package."""

CLASSIFIERS = ("logreg", "mlp")


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Parameters
    ----------
    extraction : Extraction
    runs : list of Run
    report : Path
        The HTML page.
    weights : str
        What weights were used, in a sentence.
    """

    extraction: Extraction
    runs: list[Run]
    report: Path
    weights: str


def run_demo(
    store: FeatureStore,
    root: str | None = None,
    *,
    report: Path = Path("report.html"),
    classifiers: Sequence[str] = CLASSIFIERS,
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
    classifiers : sequence of str
        What to fit.
    limit : int, optional
        Use fewer images.
    seed : int
        Of the images and the classifiers.
    progress : Progress
        Told how it goes on.
    """
    from featstore.fitting import fit
    from featstore.report import write_report

    settings: dict[str, Any] = {
        "root": root,
        "limit": limit,
        "seed": seed,
        "store": store,
        "progress": progress,
    }
    try:
        extraction = extract(MODEL, "demo", weights="imagenet", **settings)
        weights = f"{MODEL} with its real ImageNet weights ({extraction.weights})"
    except WeightsError as error:
        progress.say(str(error))
        extraction = extract(MODEL, "demo", weights="random:0", **settings)
        weights = (
            f"{MODEL} with RANDOM weights, since no pretrained ones could be had: the features "
            "are far worse than real ones"
        )
    runs = fit(store, list(classifiers), set_id=extraction.set_id, seed=seed, progress=progress)
    write_report(store, runs, report)
    return Demo(extraction, runs, report, weights)
