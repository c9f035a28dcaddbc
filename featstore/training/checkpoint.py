"""The state of a training after each epoch, in one file that is replaced whole."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from featstore.errors import TrainError, WeightsError
from featstore.io.files import atomic_write
from featstore.models.checkpoints import read_checkpoint
from featstore.training.epochs import Epoch


def checkpoint_path(out: Path) -> Path:
    """Return the file of a training's state, beside its result."""
    return out.with_name(f"{out.stem}.checkpoint.pth")


@dataclass
class Progressed:
    """How far a training is.

    `state` is :meth:`.Trainer.state`'s, `best` the weights of the best epoch; `n_threads` are those
    on which the last bits depend.
    """

    epochs: list[Epoch]
    state: dict[str, Any]
    best: dict[str, torch.Tensor]
    n_threads: int
    duration_s: float


def write_state(path: Path, request: Mapping[str, Any], done: Progressed) -> None:
    """Write the state of a training atomically."""
    about = {
        "request": request,
        "epochs": [asdict(epoch) for epoch in done.epochs],
        "n_threads": done.n_threads,
        "duration_s": done.duration_s,
    }
    stream = io.BytesIO()
    torch.save({"about": json.dumps(about), "state": done.state, "best": done.best}, stream)
    with atomic_write(path) as temporary:
        temporary.write_bytes(stream.getbuffer())


def read_state(path: Path, request: Mapping[str, Any]) -> Progressed | None:
    """Return the state of a training that was begun; None if there is none.

    One of other images or settings raises TrainError.
    """
    if not path.is_file():
        return None
    try:
        content = read_checkpoint(path)
        about = json.loads(content["about"])
        epochs = [Epoch(**values) for values in about["epochs"]]
        found = Progressed(
            epochs, content["state"], content["best"], about["n_threads"], about["duration_s"]
        )
        begun = about["request"]
    except (WeightsError, KeyError, TypeError, ValueError) as error:
        raise TrainError(
            f"{path} can't be read as the state of a training. Remove it to begin again."
        ) from error
    if differing := differences(begun, request):
        raise TrainError(
            f"{path} is of a training with {differing}. Give the same to continue it, remove the "
            "file to begin again, or name another --out."
        )
    return found


def differences(begun: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    """Return in which settings two requests differ, for people; empty if in none."""
    flat = [one | one["settings"] | {"settings": None} for one in map(dict, (begun, request))]
    names = [name for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name)]
    shown = [
        "other images" if name == "fingerprint" else f"{name} {flat[0].get(name)}" for name in names
    ]
    return ", ".join(shown)


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """Return the best epoch, the first one of equals."""
    return max(epochs, key=lambda epoch: epoch.rank)
