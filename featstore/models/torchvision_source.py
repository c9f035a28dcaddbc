"""torchvision's classification networks, with the papers' layer names, and ResNet-50 v1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from featstore.errors import WeightsError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.checkpoints import head_width
from featstore.models.layer_names import FEATURE_LAYERS, NOTES, other_names, paper_layers
from featstore.models.names import NETWORK_NAMES, check_model
from featstore.models.network import Network, seeded
from featstore.models.torchvision_import import torchvision
from featstore.models.weights import (
    RESNET50_V1_SHA256,
    Weights,
    architecture,
    find_weights,
    preset,
)
from featstore.progress import SILENT, Progress

AUXILIARY = ("googlenet", "inception_v3")
"""Networks that have auxiliary classifiers for their training."""


def build_network(
    model: str,
    image_size: int,
    seed: int = 0,
    *,
    heads: bool = False,
    n_classes: int | None = None,
) -> nn.Module:
    """Return a network with seeded random weights, in eval mode.

    ViT and MaxVit are built for images of `image_size` pixels a side. `heads` adds GoogLeNet's and
    Inception's auxiliary classifiers, which torchvision's weight files hold and inference does
    not use. `n_classes` is the width of the last layer. An unknown name raises BackboneError.
    """
    check_model(model)
    options = _size_options(model, image_size)
    if model in AUXILIARY:
        options = {"aux_logits": heads, "init_weights": False, "transform_input": False}
    if n_classes:
        options["num_classes"] = n_classes
    with seeded(seed):
        network: nn.Module = torchvision.models.get_model(
            architecture(model), weights=None, **options
        )
    if model == "resnet50_v1":
        # He et al. 2015 stride in the first 1x1 convolution of a stage, torchvision in the 3x3.
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride = (2, 2)  # type: ignore[index, union-attr]
            stage[0].conv2.stride = (1, 1)  # type: ignore[index, union-attr]
    return network.eval()


def _size_options(model: str, image_size: int) -> dict[str, Any]:
    """Return the options of a network that takes images of one size only."""
    if model.startswith("vit_"):
        return {"image_size": image_size}
    if model.startswith("maxvit"):
        return {"input_size": (image_size, image_size)}
    return {}


class TorchvisionNetwork(Network):
    """One of torchvision's networks."""

    node_title = "torchvision node"

    def __init__(self, model: str) -> None:
        super().__init__(check_model(model))
        self.fixes_size = bool(_size_options(model, 0))
        self.notes = (NOTES[model],) if model in NOTES else ()
        self._papers = {node: name for name, node in paper_layers(model).items()}
        self._others = other_names(model)

    def build(self, image_size: int, seed: int = 0, n_classes: int | None = None) -> nn.Module:
        """Return the network with seeded random weights, in eval mode."""
        return build_network(self.model, image_size, seed, n_classes=n_classes)

    @cached_property
    def heads(self) -> tuple[str, ...]:  # type: ignore[override]
        """The last module with weights, which torchvision names in many ways."""
        return (self._tensor_names[-1].rpartition(".")[0],)

    def preset(self) -> Weights:
        """Return the input that the network's default weights expect."""
        return preset(self.model)

    def find_weights(
        self, spec: str, cache: FingerprintCache, progress: Progress = SILENT
    ) -> Weights:
        """Find, or fetch, the weights that ``--weights`` names."""
        found = find_weights(self.model, spec, cache, progress)
        if found.path is None or found.path != Path(spec):
            return found
        state = self.read(found.path)
        if _body(state, self.heads) != _body(self._tensor_names, self.heads):
            self._refuse_other(state, found)
        return replace(found, n_classes=head_width(state, self.heads))

    def _refuse_other(self, state: Mapping[str, Tensor], weights: Weights) -> None:
        """Refuse the weights of another network, and name it where its tensors tell."""
        other = "resnet50_v1" if weights.sha256 == RESNET50_V1_SHA256 else network_of(state)
        if architecture(other) == architecture(self.model):
            return
        own = _body(self._tensor_names, self.heads)
        if other:
            raise WeightsError(
                f"{weights.path} holds weights of {other}, not of {self.model}. Use --model "
                f"{other}, or give weights of {self.model}."
            )
        if 2 * len(own & state.keys()) < len(own):
            raise WeightsError(
                f"{weights.path} holds weights of another network than {self.model}: of the "
                f"{len(own):,} tensors before its head, the file has {len(own & state.keys()):,}. "
                "Give weights of this network, or another --model."
            )

    def load(self, weights: Weights, image_size: int) -> nn.Module:
        """Return the network with weights, and with auxiliary heads where the file has them."""
        if weights.path is None:
            return self.build(image_size, weights.seed or 0)
        auxiliary = self.model in AUXILIARY and any(
            name.startswith(("aux1.", "AuxLogits.")) for name in self.read(weights.path)
        )
        network = build_network(
            self.model, image_size, heads=auxiliary, n_classes=weights.n_classes
        )
        try:
            self._load_file(network, weights)
        except WeightsError:
            # Names may be the same, and shapes not.
            self._refuse_other(self.read(weights.path), weights)
            raise
        return network

    def feature_node(
        self, nodes: Sequence[str], inputs: Mapping[str, str | None], output: str
    ) -> str:
        """Return the node of Table 1's layer, or the last one, whose values are the classes'."""
        return paper_layers(self.model).get(FEATURE_LAYERS.get(self.model, ""), nodes[-1])

    def layer_names(self, node: str) -> tuple[str, ...]:
        """Return the papers' name, torchvision's, and others in use."""
        name = self._papers.get(node, node)
        others = (other for other, paper in self._others.items() if paper == name)
        return tuple(dict.fromkeys([name, node, *others]))


FIRST_TENSORS = {
    "conv1.weight": ("resnet", "resnext", "wide_resnet"),
    "conv1.conv.weight": ("googlenet",),
    "conv1.0.weight": ("shufflenet",),
    "Conv2d_1a_3x3.conv.weight": ("inception",),
    "class_token": ("vit",),
    "features.0.weight": ("alexnet", "vgg", "squeezenet"),
    "features.0.0.weight": ("mobilenet", "convnext", "swin", "efficientnet"),
    "features.conv0.weight": ("densenet",),
    "layers.0.weight": ("mnasnet",),
}
"""The first tensors of networks, and how the names of the networks that have one begin."""


def network_of(state: Mapping[str, Tensor]) -> str:
    """Return the network of torchvision whose tensors a checkpoint has; empty if none has."""
    starts = [start for first, own in FIRST_TENSORS.items() if first in state for start in own]
    for name in NETWORK_NAMES:
        if name == "resnet50_v1" or not name.startswith(tuple(starts) or "none"):
            continue
        network = TorchvisionNetwork(name)
        own = network.without_data(network.preset().image_size).state_dict()
        body = _body(own, network.heads)
        if body == _body(state, network.heads) and all(
            state[tensor].shape == own[tensor].shape for tensor in body
        ):
            return name
    return ""


def _body(names: Iterable[str], heads: Sequence[str]) -> set[str]:
    """Return the names of tensors before the heads, but for the counters of batches."""
    others = (*(f"{head}." for head in heads), "aux1.", "aux2.", "AuxLogits.")
    return {n for n in names if not n.startswith(others) and not n.endswith("_tracked")}


open_network = TorchvisionNetwork
