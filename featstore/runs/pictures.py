"""Draw a run's pictures from its files when the run is shown.

The record and the curves hold all that they show, so a run without pictures is whole. `fit` draws
none, as that takes longer than a small fit; a report holds drawings of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.io.files import sync_file, sync_folder
from featstore.io.locks import temporary_folder
from featstore.runs.run import Run
from featstore.runs.scoring.base import drawn_by
from featstore.store.set_folder import uploaded_to

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_pictures(run: Run) -> str:
    """Draw the pictures that a run lacks; return why one can't be drawn, or an empty text.

    A run on object storage gets its pictures on the machines that hold its files.
    """
    folders = (run.path, run.backend.folder / uploaded_to(run.place, run.below))
    if not any((folder / "model.skops").is_file() for folder in folders):
        return ""
    try:
        for name, draw in _drawings(run).items():
            if not _is_whole(run.path / name):
                from featstore.plotting import to_png

                _add(run, name, to_png(draw()))
    except Exception as error:  # noqa: BLE001 - whatever it is, the run is kept
        return (
            f"The pictures of {run.run_id} are missing ({type(error).__name__}: {error}). The run "
            "is kept; the next featstore runs show draws them."
        )
    return ""


def _drawings(run: Run) -> dict[str, Callable[[], Figure]]:
    """Return a function for each picture of a run, which draws it."""
    drawings = run.scoring.drawings(run)
    if curves := run.curves:
        drawings["curves.png"] = drawn_by("draw_curves", {run.clf: curves}, run.scoring)
    return drawings


def _is_whole(path: Path) -> bool:
    """Return whether a picture exists and its checksums are right."""
    if not path.is_file():
        return False
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.verify()
    except Exception:  # noqa: BLE001 - Pillow raises errors of many kinds for damage
        return False
    return True


def _add(run: Run, name: str, png: bytes) -> None:
    """Add a picture to a run's folder, whole or not at all; never make the folder itself."""
    with temporary_folder(run.path.parent / f".new-{run.run_id}-{secrets.token_hex(4)}") as folder:
        (folder / name).write_bytes(png)
        sync_file(folder / name)
        (folder / name).replace(run.path / name)
    sync_folder(run.path)
