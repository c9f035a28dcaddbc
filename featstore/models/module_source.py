"""A network that a function of the user's, or of an installed package, returns.

``package.module:function`` is called without arguments. Where a package has an entry point of the
group ``featstore.models``, ``ENTRY:NAME`` calls the entry point's function with NAME. The function
returns a torch.nn.Module, or the module and a dict of :data:`SETTINGS`.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featstore.datasets.source import RGB
from featstore.environment import import_from
from featstore.errors import BackboneError, WeightsError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.names import entry_point, source_facts
from featstore.models.network import Network, seeded
from featstore.models.weights import IMAGENET_MEAN, IMAGENET_STD, Weights, random_seed
from featstore.progress import SILENT, Progress
from featstore.text import did_you_mean

SETTINGS: dict[str, Any] = {
    "image_size": 224,
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "bands": RGB,
    "interpolation": "bilinear",
    "crop_pct": None,
    "feature_layer": None,
}
"""What a function may say of its network, with the defaults; values are those of
:class:`.Preprocess`, `feature_layer` is a node of the network."""


class ModuleNetwork(Network):
    """A network that a function returns, with the weights that the function gives it."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._function = _find_function(model)
        self._settings = _checked(model, self._call(0)[1])
        self.bands = tuple(self._settings["bands"])

    def _call(self, seed: int) -> tuple[nn.Module, Mapping[str, Any]]:
        try:
            with seeded(seed):
                found = self._function()
        except Exception as error:
            raise BackboneError(
                f"{self.model} can't be used: {type(error).__name__}: {error}."
            ) from error
        module, settings = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
        if not isinstance(module, nn.Module) or not isinstance(settings, Mapping):
            raise BackboneError(
                f"{self.model} returns {type(found).__name__}; it must return a torch.nn.Module, "
                "or a module and a dict of settings."
            )
        return module.float().eval(), settings

    @cached_property
    def _module(self) -> nn.Module:
        return self._call(0)[0]

    @cached_property
    def _digest(self) -> str:
        return _state_digest(self._module)

    def build(self, image_size: int, seed: int = 0, n_classes: int | None = None) -> nn.Module:
        """Return the network with the weights that the function gives it."""
        return copy.deepcopy(self._module) if seed == 0 else self._call(seed)[0]

    def without_data(self, image_size: int, n_classes: int | None = None) -> nn.Module:
        """Return the network on the meta device."""
        return self.build(image_size).to("meta")

    def preset(self) -> Weights:
        """Return the input that the function describes."""
        s = self._settings
        return Weights(
            "own",
            None,
            "",
            s["image_size"],
            tuple(s["mean"]),
            tuple(s["std"]),
            interpolation=s["interpolation"],
            crop_pct=s["crop_pct"],
        )

    def find_weights(
        self, spec: str, cache: FingerprintCache, progress: Progress = SILENT
    ) -> Weights:
        """Return the network's own weights, a file's, or random ones.

        Weights that change with the seed are random, and have to be asked for.
        """
        preset, source = self.preset(), source_facts(self.model)
        if Path(spec).is_file():
            found = self.file_weights(Path(spec), cache)
            return replace(found, sha256=_joined(found.sha256, source))
        is_random = _state_digest(self._call(1)[0]) != self._digest
        if (seed := random_seed(spec)) is not None:
            if not is_random:
                raise WeightsError(
                    f"{self.model} gives its network weights of its own, so --weights {spec} can't "
                    "be used. Leave out --weights."
                )
            digest = _joined(f"random:{seed} torch {torch.__version__}", source)
            return replace(preset, name=f"random:{seed}", sha256=digest, seed=seed)
        if spec != "imagenet":
            raise WeightsError(
                f"--weights {spec} is no file. Leave out --weights for the weights that "
                f"{self.model} gives, or use a file (state dict or .safetensors)."
            )
        if is_random:
            raise WeightsError(
                f"{self.model} returns a network with random weights. Load weights in the "
                "function, give --weights FILE, or ask for random ones: --weights random:0."
            )
        return replace(preset, sha256=_joined(self._digest, source))

    def feature_node(
        self, nodes: Sequence[str], inputs: Mapping[str, str | None], output: str
    ) -> str:
        """Return the node that the function names, or the network's result."""
        wanted = self._settings["feature_layer"]
        if wanted is None:
            return output
        # A module's name means the last operation in it.
        found = [node for node in nodes if node == wanted or node.startswith(f"{wanted}.")]
        if not found:
            raise BackboneError(
                f"{self.model} names the feature layer {wanted!r}, which its network lacks."
                f"{did_you_mean(wanted, nodes)}"
            )
        return wanted if wanted in found else found[-1]


open_network = ModuleNetwork


def _find_function(model: str) -> Callable[[], Any]:
    prefix, _, name = model.partition(":")
    try:
        if (entry := entry_point(prefix)) is not None:
            function = entry.load()
            return lambda: function(name)
        import_from()
        found: Callable[[], Any] = getattr(importlib.import_module(prefix), name)
        return found
    except Exception as error:
        raise BackboneError(
            f"{model} can't be used: {type(error).__name__}: {error}. It must name a function, "
            "called without arguments, in a module that can be imported from here."
        ) from error


def _checked(model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := [name for name in given if name not in SETTINGS]:
        raise BackboneError(
            f"{model} gives the setting {unknown[0]!r}.{did_you_mean(unknown[0], SETTINGS)} There "
            f"are {', '.join(SETTINGS)}."
        )
    settings = SETTINGS | dict(given)
    bands, mean, std = (tuple(settings[name]) for name in ("bands", "mean", "std"))
    wrong = None
    if not len(bands) == len(mean) == len(std):
        wrong = f"{len(bands)} bands, {len(mean)} means and {len(std)} deviations"
    elif min(std) <= 0:
        wrong = f"std {std}, which must be above 0"
    elif settings["interpolation"] not in ("bilinear", "bicubic"):
        wrong = f"interpolation {settings['interpolation']!r}, which must be bilinear or bicubic"
    elif settings["crop_pct"] is not None and not 0 < settings["crop_pct"] <= 1:
        wrong = f"crop_pct {settings['crop_pct']}, which must be above 0 and at most 1"
    if wrong:
        raise BackboneError(f"{model} gives {wrong}.")
    return settings | {"bands": bands, "mean": mean, "std": std}


def _state_digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _joined(weights: str, source: Mapping[str, str]) -> str:
    """Return a digest of weights and of the code that runs them."""
    return hashlib.sha256(repr((weights, sorted(source.items()))).encode()).hexdigest()
