"""What a training leaves: weights, and beside them a record, a table and a figure of the epochs."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from featstore.environment import machine, now, store_option
from featstore.errors import FeatstoreError, TrainError
from featstore.io.files import atomic_write, read_json, write_json
from featstore.models.trained import Training
from featstore.plotting import PALETTE, STYLE, literal_text, write_png
from featstore.training.epochs import Epoch


@dataclass(frozen=True)
class TrainedModel:
    """Weights that were trained, or were there from an earlier training.

    Parameters
    ----------
    path : Path
        The weights' file. Files beside it hold the record (.json), the epochs (.csv) and their
        curves (.png).
    training : Training
        What the weights were trained on, and how.
    epochs : tuple of Epoch
        What each epoch came to.
    n_images : int
        Images that were learned from, counted in each epoch.
    duration_s : float
        Duration of all epochs.
    device : str
        Name of the device.
    is_new : bool
        Whether this call trained them.
    """

    path: Path
    training: Training
    epochs: tuple[Epoch, ...]
    n_images: int
    duration_s: float
    device: str
    is_new: bool

    @property
    def images_per_s(self) -> float:
        """Images learned from in a second, the tests of held-out images included."""
        return self.n_images / self.duration_s if self.duration_s else 0.0

    def extract_command(self, store: str) -> str:
        """Return the command that extracts features with the weights."""
        words = ["--model", self.training.network, "--weights", str(self.path)]
        return f"featstore extract {shlex.join(words)} {self.training.options}{store_option(store)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-able values."""
        return {
            "path": str(self.path),
            **self.training.to_dict(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "n_images": self.n_images,
            "duration_s": self.duration_s,
            "images_per_s": self.images_per_s,
            "device": self.device,
            "is_new": self.is_new,
        }


def record_path(out: Path) -> Path:
    """Return the file of the record beside the weights."""
    return out.with_suffix(".json")


def write_result(result: TrainedModel, content: bytes, command: str) -> None:
    """Write table, figure and record of a training, and last the weights."""
    out, training = result.path, result.training
    with (
        atomic_write(out.with_suffix(".csv")) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        rows = csv.writer(stream)
        rows.writerow([field.name for field in fields(Epoch)])
        rows.writerows(astuple(epoch) for epoch in result.epochs)
    title = f"{training.network} on {training.dataset}"
    write_png(draw_curves(result.epochs, training.held_out.epoch, title), out.with_suffix(".png"))
    made = {"command": command, "created": now(), "machine": machine()}
    about = {k: v for k, v in result.to_dict().items() if k not in ("path", "is_new")}
    write_json(record_path(out), about | made)
    with atomic_write(out) as temporary:
        temporary.write_bytes(content)


def read_result(out: Path, training: Training) -> TrainedModel:
    """Return the result of an earlier training from the record beside the weights."""
    try:
        about = read_json(record_path(out))
        epochs = tuple(Epoch(**values) for values in about["epochs"])
        return TrainedModel(
            out, training, epochs, about["n_images"], about["duration_s"], about["device"], False
        )
    except (FeatstoreError, KeyError, TypeError) as error:
        raise TrainError(
            f"{out} is there, and {record_path(out)} beside it is missing or damaged. Use the "
            "weights as they are, or remove them to train again."
        ) from error


def draw_curves(epochs: Sequence[Epoch], chosen: int, title: str) -> Figure:
    """Draw losses and held-out accuracy by epoch; the chosen epoch is marked."""
    x = [epoch.epoch for epoch in epochs]
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 2.9), layout="constrained")
        losses, accuracies = fig.subplots(1, 2)
        for name, values, color in (
            ("learned from", [epoch.train_loss for epoch in epochs], PALETTE[0]),
            ("held out", [epoch.held_out_loss for epoch in epochs], PALETTE[1]),
        ):
            losses.plot(x, values, label=name, color=color, marker="." if len(x) < 3 else None)
        losses.set_title(literal_text(f"Loss, {title}"))
        losses.legend()
        accuracies.plot(x, [epoch.held_out_accuracy for epoch in epochs], color=PALETTE[1])
        best = next(epoch for epoch in epochs if epoch.epoch == chosen)
        accuracies.plot([chosen], [best.held_out_accuracy], "o", color=PALETTE[1])
        accuracies.set_title(f"Accuracy of held-out images; epoch {chosen} is kept")
        accuracies.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        for ax in (losses, accuracies):
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig
