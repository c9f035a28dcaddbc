"""Read a checkpoint's tensors without executing anything, and load them into a network."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from featstore.errors import WeightsError
from featstore.text import join_some


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint; nothing in the file is executed.

    A file that is damaged, holds anything but tensors, or is no checkpoint raises WeightsError.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        with warnings.catch_warnings():
            # torch warns of pickle's protocol before it raises one of the errors below.
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, or is no checkpoint; nothing in it was executed. "
            "Save the bare state dict: torch.save(model.state_dict(), PATH)."
        ) from error
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        safetensors.SafetensorError,
    ) as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"{path} can't be read as a checkpoint ({cause}). It may be cut short: compare its "
            "size with the original's."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        raise WeightsError(
            f"{path} holds no state dict (a mapping of names to tensors). Save one with "
            "torch.save(model.state_dict(), PATH)."
        )
    # torch.nn.DataParallel saves every name with this prefix.
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def load_into(network: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load a checkpoint's tensors into a network.

    Every tensor of both must match in name and shape; WeightsError lists those that do not.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or unexpected or shapes:
        lists = {"missing": missing, "not in the network": unexpected, "of another shape": shapes}
        raise WeightsError(
            f"{path} does not fit the network:\n"
            + "\n".join(f"  {what}: {join_some(names)}" for what, names in lists.items() if names)
            + "\nGive weights of this network, or another --model."
        )
    network.load_state_dict(own | dict(state))
