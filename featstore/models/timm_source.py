"""timm's networks, with each weight's own input; the only file that imports timm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import get_notrace_functions, get_notrace_modules  # type: ignore[attr-defined]
from timm.models._registry import _deprecated_models
from torch import nn

from featstore.errors import BackboneError, WeightsError
from featstore.io.downloads import fetch
from featstore.models.checkpoints import difference
from featstore.models.hub import hub_file
from featstore.models.network import Network, has_class_token, seeded
from featstore.models.weights import Weights, checkpoints_folder
from featstore.progress import Progress
from featstore.text import did_you_mean, join_some

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""The files of timm's repositories on the hub, the safe one first, as timm looks for them."""


def list_names() -> list[str]:
    """Return the names of all networks with weights, as ``NAME.TAG``."""
    found: list[str] = timm.list_models(pretrained=True)
    return found


class TimmNetwork(Network):
    """One of timm's networks, by its name and the tag of its weights."""

    feature_name = "pre_logits"
    node_title = "timm node"

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.name = model.partition(":")[2]
        architecture, _, tag = self.name.partition(".")
        # timm builds networks by their former names too, and then knows no input of theirs.
        if renamed := _deprecated_models.get(architecture):
            raise BackboneError(f"timm calls {architecture} {renamed} now: use timm:{renamed}.")
        if not timm.is_model(architecture):
            hint = did_you_mean(architecture, timm.list_models())
            raise BackboneError(
                f"timm has no network {architecture!r}.{hint} `featstore models 'timm:*resnet*'` "
                "searches."
            )
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
        if tag and tag not in tags:
            raise BackboneError(
                f"timm has no weights {tag!r} of {architecture}.{did_you_mean(tag, tags)} It has "
                f"{join_some(tags) or 'none'}."
            )
        cfg: Any = timm.models.get_pretrained_cfg(self.name)
        self._cfg, self.fixes_size = cfg, bool(cfg.fixed_input_size)
        heads = cfg.classifier or ()
        self.heads = (heads,) if isinstance(heads, str) else tuple(heads)

    def _options(self, image_size: int, n_classes: int | None) -> dict[str, Any]:
        size = {"img_size": image_size} if self.fixes_size else {}
        return size if n_classes is None else size | {"num_classes": n_classes}

    def build(self, image_size: int, seed: int = 0, n_classes: int | None = None) -> nn.Module:
        """Return the network with seeded random weights, in eval mode."""
        with seeded(seed):
            network: nn.Module = timm.create_model(
                self.name, **self._options(image_size, n_classes)
            )
        return self._finish(network)

    def _finish(self, network: nn.Module) -> nn.Module:
        if self._hides_feature(network):
            kind = type(network)
            network.__class__ = type(kind.__name__, (kind,), {"forward": _pre_logits})
        return network.eval()

    def _hides_feature(self, network: nn.Module) -> bool:
        """Return whether the feature is not what one head reads, so that the network ends with it.

        Distilled networks make it of what two heads read, and some heads have hidden layers.
        """
        head = dict(network.named_modules()).get(self.heads[0]) if self.heads else None
        width = getattr(head, "in_features", getattr(head, "in_channels", None))
        hidden = getattr(network, "head_hidden_size", width)
        return len(self.heads) > 1 or (width is not None and width != hidden)

    def load(self, weights: Weights, image_size: int) -> nn.Module:
        """Return the network with weights; timm converts and resamples those that it knows."""
        if weights.path is None:
            return self.build(image_size, weights.seed or 0)
        state = self.read(weights.path)
        usual = self._cfg.num_classes
        # The head of a checkpoint with other names shows in neither width.
        widths = [weights.n_classes or usual, *({0, usual} if not weights.n_classes else ())]
        failure: Exception | None = None
        for width in dict.fromkeys(widths):
            # timm is strict where it takes the width for the weights' own.
            overlay = {"state_dict": dict(state), "num_classes": width}
            try:
                network: nn.Module = timm.create_model(
                    self.name,
                    pretrained=True,
                    pretrained_cfg_overlay=overlay,
                    **self._options(image_size, width),
                )
                return self._finish(network)
            except (RuntimeError, KeyError, ValueError, AttributeError) as error:
                failure = failure or error
        own = self.build(image_size, n_classes=weights.n_classes)
        raise WeightsError(
            difference(own, state, weights.path, self.heads) or f"{weights.path}: {failure}"
        ) from failure

    def preset(self) -> Weights:
        """Return the input of the tag's weights."""
        cfg = self._cfg
        height, width = cfg.input_size[1:]
        if cfg.crop_mode == "border":
            raise BackboneError(
                f"{self.model} takes images with a border around them, which featstore does not "
                "add. Use another network."
            )
        squash = cfg.crop_mode == "squash"
        return Weights(
            cfg.tag or "",
            None,
            "",
            min(height, width),
            tuple(cfg.mean),
            tuple(cfg.std),
            interpolation=cfg.interpolation,
            crop_pct=None if squash and cfg.crop_pct == 1 else cfg.crop_pct,
            squash=squash and cfg.crop_pct != 1,
        )

    def fetch(self, progress: Progress) -> Path:
        """Return the file of the tag's weights, from the hub, or from the tag's address."""
        cfg = self._cfg
        if cfg.hf_hub_id:
            by_hand = checkpoints_folder() / f"{cfg.architecture}.{cfg.tag}.safetensors"
            names = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else HUB_FILES
            return hub_file(cfg.hf_hub_id, names, by_hand, self.model, progress)
        if cfg.url:
            path = checkpoints_folder() / cfg.url.rpartition("/")[2]
            return fetch(cfg.url, path, None, progress)
        raise WeightsError(
            f"timm has no weights of {self.name}. Give a file with --weights FILE, or random:0."
        )

    def own_pool(self, network: nn.Module) -> str:
        """Return ``cls`` where the network reads the class token, ``tokens`` where it averages."""
        reads = getattr(network, "global_pool", "token") in ("token", "")
        return "cls" if reads and has_class_token(network) else "tokens"

    def untraced(self) -> tuple[Sequence[type[nn.Module]], Sequence[Callable[..., Any]]]:
        """Return what timm itself does not let torch.fx look into."""
        return untraced()


def _pre_logits(self: Any, x: torch.Tensor) -> Any:
    return self.forward_head(self.forward_features(x), pre_logits=True)


def untraced() -> tuple[Sequence[type[nn.Module]], Sequence[Callable[..., Any]]]:
    """Return the modules and functions of timm that torch.fx does not look into."""
    return get_notrace_modules(), get_notrace_functions()  # type: ignore[no-untyped-call]


open_network = TimmNetwork
