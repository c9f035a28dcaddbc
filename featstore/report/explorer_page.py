"""Write the explorer: one HTML page that needs no other file, server or network."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from featstore.config import MAX_EXPLORED
from featstore.io.files import write_output
from featstore.plotting import PALETTE
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.report.charts import check_projection
from featstore.report.explorer import find_subject, page_data
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore

DEFAULT_PAGE = "explorer.html"
"""The page's name, by which a report beside it links to it."""


def write_explorer(
    store: FeatureStore,
    run_or_set: Run | str,
    path: str | Path = DEFAULT_PAGE,
    *,
    layers: str | None = None,
    projection: str | None = None,
    limit: int = MAX_EXPLORED,
    root: str | None = None,
    random_state: int = 0,
    progress: Progress = IN_NOTEBOOKS,
) -> dict[str, Any]:
    """Write a page on which the images of a run or feature set are explored; return its facts.

    Parameters
    ----------
    store : FeatureStore
    run_or_set : Run or str
        A run, or the name of a feature set. Runs on the same images are on the page, too.
    path : str or Path
        The page; it is replaced whole, or not at all.
    layers : str, optional
        Layers of a feature set, as :meth:`.FeatureStore.select` takes them.
    projection : str, optional
        ``pca``, ``tsne`` or ``umap``; by default t-SNE for up to 10,000 images, PCA beyond.
    limit : int
        Most images; of more, as many are taken, evenly spread.
    root : str, optional
        Folder of the images; by default the one they were extracted from.
    random_state : int
        Seed of the map.
    progress : Progress

    Returns
    -------
    dict
        ``page``, ``n_images``, ``method``, ``runs`` (their ids), ``has_pictures`` and ``nbytes``.

    Raises
    ------
    ConfigError
        When the projection is unknown or not installed, or `layers` is given with a run.
    SelectionError
        When the features are gone, or layers have to be chosen.
    StoreError
        When the page can't be written.
    """
    if projection is not None:
        check_projection(projection)
    subject = find_subject(run_or_set, store, layers, progress)
    data = page_data(
        subject,
        store,
        projection=projection,
        limit=limit,
        root=root,
        random_state=random_state,
        progress=progress,
    )
    page = _render(data).encode()
    write_output(Path(path), page)
    return {
        "page": str(Path(path)),
        "n_images": len(data["names"]),
        "method": data["method"],
        "runs": [run["run_id"] for run in data["runs"]],
        "has_pictures": data["pictures"] is not None,
        "nbytes": len(page),
    }


def _render(data: dict[str, Any]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = resources.files("featstore").joinpath("explorer.html").read_text(encoding="utf-8")
    # Within a script, "<" could end it.
    text = json.dumps(data | {"palette": PALETTE}, separators=(",", ":")).replace("<", "\\u003c")
    return environment.from_string(template).render(title=data["title"], data=text)
