"""Read a checkpoint's tensors without executing anything, and load them into a network."""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from featstore.errors import WeightsError
from featstore.text import join_some

NESTS = ("state_dict", "model", "model_state_dict", "teacher")
"""Keys under which checkpoints keep a network's tensors, beside optimizers and the like."""


def read_checkpoint(path: Path) -> Any:
    """Return what a checkpoint holds; nothing in the file is executed.

    A file that is damaged, holds anything but tensors and plain values, or is no checkpoint raises
    WeightsError.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        with warnings.catch_warnings():
            # torch warns of pickle's protocol before it raises one of the errors below.
            warnings.simplefilter("ignore", UserWarning)
            # Many training scripts save their arguments too.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
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


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint's network; see :func:`read_checkpoint`.

    A state dict may be nested (:data:`NESTS`), and its names may have the prefixes that
    DataParallel and torch.compile give. A file without one raises WeightsError.
    """
    state = read_checkpoint(path)
    while isinstance(state, Mapping):
        nested = next((state[key] for key in NESTS if isinstance(state.get(key), Mapping)), None)
        if nested is None:
            break
        state = nested
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        raise WeightsError(
            f"{path} holds no state dict (a mapping of names to tensors). Save one with "
            "torch.save(model.state_dict(), PATH)."
        )
    return {_own_name(str(name)): value for name, value in state.items()}


def _own_name(name: str) -> str:
    # torch.compile may wrap a part of a network, DataParallel wraps all of it.
    return name.replace("_orig_mod.", "").removeprefix("module.")


def select_network(
    state: Mapping[str, torch.Tensor], own: Collection[str], heads: Sequence[str], path: Path
) -> dict[str, torch.Tensor]:
    """Return the tensors of one network in a checkpoint, by the network's own names.

    Training frameworks put a network below a name such as ``model.`` or ``teacher.backbone.``,
    beside losses and other networks. `own` are the names of the network's tensors, `heads` its
    last modules. Two networks that fit alike raise WeightsError, unless one is the teacher.
    """
    body = [name for name in own if not name.startswith(_below(heads))]
    if not body or body[0] in state:
        return dict(state)
    prefixes = [name.removesuffix(body[0]) for name in state if name.endswith(f".{body[0]}")]
    counts = {prefix: sum(prefix + name in state for name in body) for prefix in prefixes}
    best = [prefix for prefix, n in counts.items() if n == max(counts.values())]
    if len(best) > 1:
        best = [prefix for prefix in best if "teacher" in prefix] or best
    if len(best) > 1:
        raise WeightsError(
            f"{path} holds several networks: {join_some(best)}. Save the state dict of one: "
            "torch.save(model.state_dict(), PATH)."
        )
    if not best:
        return dict(state)
    return {n.removeprefix(best[0]): t for n, t in state.items() if n.startswith(best[0])}


def head_width(state: Mapping[str, torch.Tensor], heads: Sequence[str]) -> int | None:
    """Return the number of classes of a checkpoint's head; 0 without a head, None if unknown."""
    if not heads:
        return None
    weight = state.get(f"{heads[0]}.weight")
    return 0 if weight is None else len(weight)


def _below(modules: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in modules)


def load_into(
    network: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    path: Path,
    may_lack: Sequence[str] = (),
) -> None:
    """Load a checkpoint's tensors into a network.

    Every tensor of both must match in name and shape, except that the modules `may_lack` may be
    missing; WeightsError lists the tensors that do not.
    """
    if text := difference(network, state, path, may_lack):
        raise WeightsError(text)
    network.load_state_dict(network.state_dict() | dict(state))


def difference(
    network: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    path: Path,
    may_lack: Sequence[str] = (),
) -> str | None:
    """Return which tensors of a checkpoint and a network do not match, or None."""
    own = network.state_dict()
    optional = _below(may_lack)
    missing = [
        name
        for name in own
        if name not in state and not name.endswith("_tracked") and not name.startswith(optional)
    ]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if not (missing or unexpected or shapes):
        return None
    lists = {"missing": missing, "not in the network": unexpected, "of another shape": shapes}
    return (
        f"{path} does not fit the network:\n"
        + "\n".join(f"  {what}: {join_some(names)}" for what, names in lists.items() if names)
        + "\nGive weights of this network, or another --model."
    )
