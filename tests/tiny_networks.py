"""timm networks of every kind that build and run in milliseconds; importing this registers them."""

from __future__ import annotations

from typing import Any

from timm.layers import Linear
from timm.models import build_model_with_cfg, register_model
from timm.models.deit import VisionTransformerDistilled
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as filter_vit
from torch import nn

SIZE = 32


def _cfg(**settings: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 7,
        "input_size": (3, SIZE, SIZE),
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "classifier": "head",
        "first_conv": None,
        **settings,
    }


default_cfgs = {
    "tiny_resnet": _cfg(
        fixed_input_size=False, classifier="fc", interpolation="bilinear", crop_pct=0.875
    ),
    "tiny_vit": _cfg(),
    "tiny_swin": _cfg(classifier="head.fc", crop_mode="squash", crop_pct=1.0),
    "tiny_mixer": _cfg(num_classes=0),
    "tiny_own_linear": _cfg(),
    "tiny_hidden_head": _cfg(classifier="head.fc2"),
    "tiny_distilled": _cfg(classifier=("head", "head_dist")),
}


@register_model
def tiny_resnet(pretrained: bool = False, **options: Any) -> nn.Module:
    """Return a convolutional network."""
    shape = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
    return build_model_with_cfg(ResNet, "tiny_resnet", pretrained, **shape, **options)


@register_model
def tiny_vit(pretrained: bool = False, **options: Any) -> nn.Module:
    """Return a vision transformer with a class token and four registers, as DINOv3's are."""
    shape = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "reg_tokens": 4}
    return build_model_with_cfg(
        VisionTransformer,
        "tiny_vit",
        pretrained,
        pretrained_filter_fn=filter_vit,
        **shape,
        **options,
    )


@register_model
def tiny_swin(pretrained: bool = False, **options: Any) -> nn.Module:
    """Return a hierarchical transformer with windows."""
    shape = {"patch_size": 2, "embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2)}
    return build_model_with_cfg(
        SwinTransformer,
        "tiny_swin",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        window_size=4,
        feature_cfg={"flatten_sequential": True},
        **shape,
        **options,
    )


@register_model
def tiny_mixer(pretrained: bool = False, **options: Any) -> nn.Module:
    """Return an MLP over patches, whose tokens are mixed by a matrix of their own."""
    shape = {"patch_size": 8, "num_blocks": 2, "embed_dim": 16}
    return build_model_with_cfg(MlpMixer, "tiny_mixer", pretrained, **shape, **options)


class OwnLinear(MlpMixer):
    """A mixer whose head is timm's own kind of linear layer, as GhostNet's is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.head = Linear(self.num_features, self.num_classes)


class HiddenHead(MlpMixer):
    """A mixer whose head has a hidden layer, as CAFormer's has: what `fc2` reads is no feature."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.head = nn.Sequential()
        self.head.fc1 = nn.Linear(self.num_features, 24)
        self.head.act = nn.ReLU()
        self.head.fc2 = nn.Linear(24, self.num_classes)


@register_model
def tiny_own_linear(pretrained: bool = False, **options: Any) -> nn.Module:
    """Return a network with a head that torch.fx looks into."""
    shape = {"patch_size": 8, "num_blocks": 1, "embed_dim": 16}
    return build_model_with_cfg(OwnLinear, "tiny_own_linear", pretrained, **shape, **options)


@register_model
def tiny_hidden_head(pretrained: bool = False, **options: Any) -> nn.Module:
    """Return a network with a hidden layer in its head."""
    shape = {"patch_size": 8, "num_blocks": 1, "embed_dim": 16}
    return build_model_with_cfg(HiddenHead, "tiny_hidden_head", pretrained, **shape, **options)


@register_model
def tiny_distilled(pretrained: bool = False, **options: Any) -> nn.Module:
    """Return a network with two heads, which read two tokens."""
    shape = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    return build_model_with_cfg(
        VisionTransformerDistilled, "tiny_distilled", pretrained, **shape, **options
    )
