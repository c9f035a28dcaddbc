"""The image towers of OpenCLIP's networks; the only file that imports open_clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.convert import convert_state_dict
from open_clip.model import _build_vision_tower, resize_pos_embed
from torch import nn

from featstore.errors import BackboneError, WeightsError
from featstore.io.downloads import fetch
from featstore.models.checkpoints import load_into, read_state_dict
from featstore.models.hub import hub_file
from featstore.models.network import Network, seeded
from featstore.models.timm_source import untraced
from featstore.models.weights import Weights, checkpoints_folder
from featstore.progress import Progress
from featstore.text import did_you_mean, join_some

TOWER = "visual."
"""What the names of an image tower's tensors begin with."""


def list_names() -> list[str]:
    """Return the names of all networks with weights, as ``ARCH/TAG``."""
    return [f"{name}/{tag}" for name, tag in open_clip.list_pretrained()]


class ImageTower(nn.Module):
    """An image tower that gives the features alone, where some give their tokens too."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: torch.Tensor) -> Any:
        """Return what CLIP's encode_image returns."""
        found = self.visual(images)
        return found[0] if isinstance(found, tuple) else found


class OpenclipNetwork(Network):
    """One of OpenCLIP's image towers, by architecture and tag of its weights."""

    feature_name = "image_features"
    node_title = "OpenCLIP node"
    fixes_size = True

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._name, _, self._tag = model.partition(":")[2].partition("/")
        self._config = open_clip.get_model_config(self._name)
        if self._config is None:
            hint = did_you_mean(self._name, open_clip.list_models())
            raise BackboneError(
                f"OpenCLIP has no network {self._name!r}.{hint} `featstore models "
                "'openclip:*ViT-B*'` searches."
            )
        self._pretrained = open_clip.get_pretrained_cfg(self._name, self._tag)
        if self._tag and not self._pretrained:
            tags = open_clip.list_pretrained_tags_by_model(self._name)
            raise BackboneError(
                f"OpenCLIP has no weights {self._tag!r} of {self._name}."
                f"{did_you_mean(self._tag, tags)} It has {join_some(tags) or 'none'}."
            )
        # OpenCLIP only warns where the weights were trained with another activation.
        self._quick_gelu = bool(
            self._pretrained.get("quick_gelu", self._config.get("quick_gelu", False))
        )

    def build(self, image_size: int, seed: int = 0, n_classes: int | None = None) -> nn.Module:
        """Return the image tower with seeded random weights, in eval mode."""
        vision = {**self._config["vision_cfg"], "timm_model_pretrained": False}
        vision["image_size"] = image_size
        with seeded(seed):
            tower = _build_vision_tower(self._config["embed_dim"], vision, self._quick_gelu)
        return ImageTower(tower).eval()

    def preset(self) -> Weights:
        """Return the input of the tag's weights, or OpenAI's for a file without a tag."""
        given = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD} | self._pretrained
        size = self._config["vision_cfg"]["image_size"]
        mode = given.get("resize_mode", "shortest")
        if mode not in ("shortest", "squash") or not isinstance(size, int):
            raise BackboneError(
                f"{self.model} takes images that are not resized to a square (resize_mode "
                f"{mode}, image_size {size}), which featstore does not do. Use another network."
            )
        return Weights(
            self._tag,
            None,
            "",
            size,
            tuple(given["mean"]),
            tuple(given["std"]),
            interpolation=given.get("interpolation", "bicubic"),
            crop_pct=None if mode == "squash" else 1.0,
        )

    def load(self, weights: Weights, image_size: int) -> nn.Module:
        """Return the image tower with weights, its positions resampled to the size."""
        network = self.build(image_size, weights.seed or 0)
        if weights.path is not None:
            state = self.read(weights.path)
            resize_pos_embed(state, network)
            load_into(network, state, weights.path)
        return network

    def read(self, path: Path) -> dict[str, torch.Tensor]:
        """Return the image tower's tensors in a checkpoint of CLIP, or of the tower alone."""
        state = convert_state_dict(None, read_state_dict(path))
        key = next((name for name in state if f".{name}".find(f".{TOWER}") >= 0), None)
        if key is None:
            return {TOWER + name: tensor for name, tensor in state.items()}
        prefix = key[: f".{key}".find(f".{TOWER}")]
        own = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        return {name: tensor for name, tensor in own.items() if name.startswith(TOWER)}

    def fetch(self, progress: Progress) -> Path:
        """Return the file of the tag's weights, from the hub, or from the tag's address."""
        repo, _, name = str(self._pretrained.get("hf_hub", "")).rpartition("/")
        if repo:
            by_hand = checkpoints_folder() / f"{self._name}-{self._tag}.safetensors"
            return hub_file(repo, _hub_names(name), by_hand, self.model, progress)
        if url := self._pretrained.get("url"):
            return fetch(url, checkpoints_folder() / url.rpartition("/")[2], None, progress)
        raise WeightsError(
            f"{self.model} names no weights. Add a tag ({self.model}/TAG), or give a file with "
            "--weights FILE."
        )

    def feature_node(
        self, nodes: Sequence[str], inputs: Mapping[str, str | None], output: str
    ) -> str:
        """Return the node of what encode_image returns."""
        return output

    def own_pool(self, network: nn.Module) -> str:
        """Return how the tower itself reads its tokens."""
        averages = getattr(network.visual, "pool_type", "tok") == "avg"
        return "tokens" if averages else super().own_pool(network)

    def untraced(self) -> tuple[Sequence[type[nn.Module]], Sequence[Callable[..., Any]]]:
        """Return what torch.fx can't look into; some towers are networks of timm."""
        return untraced()


def _hub_names(name: str) -> tuple[str, ...]:
    """Return the files of a repository, the safe one first, as OpenCLIP looks for them."""
    if not name:
        return "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
    safe = f"{name[:-4]}.safetensors" if name.endswith((".bin", ".pth")) else name
    return tuple(dict.fromkeys([safe, name]))


open_network = OpenclipNetwork
