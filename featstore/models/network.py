"""What the networks of all libraries share: a preset, building, weights, and a feature layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from featstore.datasets.source import RGB
from featstore.errors import BackboneError, WeightsError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.checkpoints import (
    head_width,
    load_into,
    read_state_dict,
    select_network,
)
from featstore.models.names import source_facts
from featstore.models.weights import Weights, random_seed
from featstore.progress import SILENT, Progress

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
"""Names of the parameter that is the class token, in timm, torchvision and OpenCLIP."""


OTHER_TOKENS = ("dist_token", "reg_token", "register_tokens", "storage_tokens")
"""Names of the parameters that are further tokens before the image's, as registers are."""


class Network(ABC):
    """A network by its name: how it is built and loaded, and what input it expects."""

    feature_name: str | None = None
    """A further name of the feature layer, beside its node's."""
    node_title = "node"
    """What the network's library calls a node."""
    bands: tuple[str, ...] = RGB
    """The bands of the input, in the network's order."""
    fixes_size = False
    """Whether the network is built for images of one size."""
    heads: tuple[str, ...] = ()
    """The modules that turn features into classes, which a checkpoint may lack."""
    notes: tuple[str, ...] = ()
    """Sentences for `featstore models show`."""

    def __init__(self, model: str) -> None:
        self.model = model

    @abstractmethod
    def build(self, image_size: int, seed: int = 0, n_classes: int | None = None) -> nn.Module:
        """Return the network with seeded random weights, in eval mode.

        `n_classes` is the head's width: None for the usual one, 0 for no head.
        """

    @abstractmethod
    def preset(self) -> Weights:
        """Return the input that the network expects; the weights are still to be found."""

    def expected_input(self, spec: str) -> Weights:
        """Return the input that the weights of ``--weights`` expect, before they are found."""
        return self.preset()

    def find_weights(
        self, spec: str, cache: FingerprintCache, progress: Progress = SILENT
    ) -> Weights:
        """Find, or fetch, the weights that ``--weights`` names.

        ``imagenet``, the default, means the weights of the network's name.
        """
        preset = self.preset()
        if (seed := random_seed(spec)) is not None:
            versions = {"torch": torch.__version__} | source_facts(self.model)
            digest = " ".join([f"random:{seed}", *(f"{k} {v}" for k, v in versions.items())])
            return replace(preset, name=f"random:{seed}", sha256=digest, seed=seed)
        if Path(spec).is_file():
            return self.file_weights(Path(spec), cache)
        if spec not in ("imagenet", preset.name):
            raise WeightsError(
                f"--weights {spec} is no file. The name {self.model} says its weights: leave out "
                "--weights, or give a file (state dict or .safetensors), or random:SEED."
            )
        path = self.fetch(progress)
        return replace(preset, path=path, sha256=cache.sha256([path])[0])

    def fetch(self, progress: Progress) -> Path:
        """Return the file of the weights that the network's name says, downloaded if need be."""
        raise NotImplementedError

    def load(self, weights: Weights, image_size: int) -> nn.Module:
        """Return the network with weights, in eval mode."""
        if weights.path is None:
            return self.build(image_size, weights.seed or 0)
        network = self.build(image_size, n_classes=weights.n_classes)
        self._load_file(network, weights)
        return network

    def _load_file(self, network: nn.Module, weights: Weights) -> None:
        if weights.path is not None:
            lacking = self.heads if weights.n_classes == 0 else ()
            load_into(network, self.read(weights.path), weights.path, lacking)

    def read(self, path: Path) -> dict[str, torch.Tensor]:
        """Return the network's tensors in a checkpoint, by its own names."""
        return select_network(read_state_dict(path), self._tensor_names, self.heads, path)

    @cached_property
    def _tensor_names(self) -> tuple[str, ...]:
        return tuple(self.without_data(self.preset().image_size).state_dict())

    def file_weights(self, path: Path, cache: FingerprintCache) -> Weights:
        """Return the weights of a checkpoint file, with the width of its head."""
        return replace(
            self.preset(),
            name=path.name,
            path=path,
            sha256=cache.sha256([path])[0],
            n_classes=head_width(self.read(path), self.heads),
        )

    def without_data(self, image_size: int, n_classes: int | None = None) -> nn.Module:
        """Return the network on the meta device; a size that it can't take raises BackboneError."""
        try:
            with torch.device("meta"), _WithoutDrawing():
                return self.build(image_size, n_classes=n_classes)
        except NotImplementedError:
            # RegNets read numbers while they are built: only a real build works.
            return self.build(image_size, n_classes=n_classes).to("meta")
        except BackboneError:
            raise
        except (AssertionError, ValueError) as error:
            raise BackboneError(self.wrong_size(image_size, error)) from error

    def wrong_size(self, image_size: int, error: Exception) -> str:
        """Return the message for a size that the network can't take."""
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        return (
            f"{self.model} can't take images of {image_size} px: {reason}. Leave out --image-size "
            "for the network's own."
        )

    def recorded_weights(
        self, backbone: Mapping[str, Any], cache: FingerprintCache, progress: Progress = SILENT
    ) -> Weights:
        """Find the weights that a feature set records in its `backbone`.

        Weights that are missing or have changed raise WeightsError.
        """
        sha256, spec = backbone["weights_sha256"], str(backbone["weights"])
        recorded = Path(backbone["weights_path"] or "")
        if recorded.is_file() and cache.sha256([recorded])[0] == sha256:
            spec = str(recorded)
        weights = self.find_weights(spec, cache, progress)
        if weights.sha256 != sha256:
            raise WeightsError(
                f"The features were made with weights of sha256 {sha256}, and "
                f"{weights.path or weights.name} has {weights.sha256}. Put the first ones back at "
                f"{recorded}."
            )
        return weights

    def feature_node(
        self, nodes: Sequence[str], inputs: Mapping[str, str | None], output: str
    ) -> str:
        """Return the node of the network's own feature: the input of its head, or its result.

        `nodes` are in network order; `inputs` gives the node that each head reads, `output` the
        node of the network's result.
        """
        read = [inputs.get(head) for head in self.heads]
        return next((node for node in read if node is not None and node in nodes), output)

    def layer_names(self, node: str) -> tuple[str, ...]:
        """Return all names of a node; the first one is the layer's name in the store."""
        return (node,)

    def own_pool(self, network: nn.Module) -> str:
        """Return how the network itself reads its tokens: ``cls`` or ``tokens``."""
        return "cls" if has_class_token(network) else "tokens"

    def untraced(self) -> tuple[Sequence[type[nn.Module]], Sequence[Callable[..., Any]]]:
        """Return the modules and functions that torch.fx does not look into."""
        return (), ()


class _WithoutDrawing(TorchFunctionMode):
    """Leaves out the draws of random weights, which have no data on the meta device.

    PyTorch would import its compiler to draw them: seconds.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__module__", "") == "torch.nn.init" or function in DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_)


def has_class_token(network: nn.Module) -> bool:
    """Return whether a network has a class token."""
    return _count_tokens(network, CLASS_TOKENS) > 0


def n_prefix_tokens(network: nn.Module) -> int:
    """Return how many tokens a network puts before those of the image's parts."""
    return _count_tokens(network, (*CLASS_TOKENS, *OTHER_TOKENS))


def _count_tokens(network: nn.Module, names: Sequence[str]) -> int:
    found = [p for n, p in network.named_parameters() if n.rpartition(".")[2] in names]
    return sum(p.shape[-2] if p.dim() > 1 else 1 for p in found)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch draw from a seed meanwhile, and continue as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
