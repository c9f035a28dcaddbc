"""Names of all models and of their sources, without importing torch."""

from __future__ import annotations

import hashlib
import re
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from featstore.environment import import_from, version
from featstore.errors import BackboneError
from featstore.models.layer_names import FEATURE_LAYERS
from featstore.text import did_you_mean

PIXEL_MODEL = "pixelstats"
"""Pixel statistics, which need no network."""


HAND_MODEL = "deepsat"
"""Hand features after DeepSat, which need no network."""


PATCH_MODEL = "mosaiks"
"""The model whose filters are patches of the training images."""


FILTER_MODELS = ("rcf", PATCH_MODEL)
"""Random convolutional features, which need no network: of Gaussian filters, and of patches."""


N_FILTER_FEATURES, KERNEL_SIZE = 512, 3
"""Features of such a model, and side of its filters in pixels, where its name gives none."""


MAX_FILTER_FEATURES, MAX_KERNEL_SIZE = 16384, 15


SMALL_CNN = "satcnn"
"""The small network that ``featstore train`` trains."""


TRIPLET = "triplet"
"""The source of networks that ``featstore train`` trains by triplets: ``triplet:BACKBONE``."""


_TORCHVISION = """
alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161
densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m
efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3
mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf regnet_x_32gf
regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf
regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101
resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d resnext50_32x4d
shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0
squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn
vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2
wide_resnet50_2
""".split()  # noqa: SIM905 - a list of 80 lines says no more
"""Classification networks of torchvision; a test compares them with the installed version."""


NETWORK_NAMES = tuple(dict.fromkeys([*FEATURE_LAYERS, *_TORCHVISION]))
"""The paper's networks, then the others."""


MODEL_NAMES = (*NETWORK_NAMES, SMALL_CNN, PIXEL_MODEL, HAND_MODEL, *FILTER_MODELS)


def needs_network(model: str) -> bool:
    """Return whether a model is a network."""
    return model not in (PIXEL_MODEL, HAND_MODEL) and source_of(model) not in FILTER_MODELS


def filter_settings(model: str) -> tuple[str, int, int]:
    """Return the kind, number of features and kernel size of ``KIND[:FEATURES[/KERNEL]]``."""
    kind, colon, rest = model.partition(":")
    found = re.fullmatch(r"([1-9]\d{0,8})(?:/([1-9]\d{0,3}))?", rest)
    n_features, kernel_size = N_FILTER_FEATURES, KERNEL_SIZE
    if found:
        n_features, kernel_size = int(found[1]), int(found[2] or KERNEL_SIZE)
    is_valid = n_features % 2 == 0 and n_features <= MAX_FILTER_FEATURES
    if (colon and not found) or not is_valid or kernel_size > MAX_KERNEL_SIZE:
        raise BackboneError(
            f"{model!r} is not valid. Give {kind}:FEATURES or {kind}:FEATURES/KERNEL, such as "
            f"{kind}:1024/5: an even number of features up to {MAX_FILTER_FEATURES:,}, and the "
            f"side of the filters, up to {MAX_KERNEL_SIZE} pixels."
        )
    return kind, n_features, kernel_size


def backbone_names() -> list[str]:
    """Return all networks: the paper's four, ``resnet50_v1``, and the rest of torchvision's."""
    return list(NETWORK_NAMES)


SOURCES = {
    "timm": ("timm", "timm"),
    "openclip": ("open_clip", "open_clip_torch"),
    "torchgeo": ("torchgeo", "torchgeo"),
}
"""Sources of networks by the beginning of their names: the module and the distribution."""


ENTRY_POINTS = "featstore.models"
"""Group of entry points by which installed packages add sources.

An entry point's name is the source's, its object a function that takes a network's name.
"""


def source_of(model: str) -> str:
    """Return a model's source.

    It is ``torchvision``, one of :data:`SOURCES`, ``module``, one of :data:`FILTER_MODELS`,
    ``satcnn`` or ``triplet``.
    """
    prefix, colon, _ = model.partition(":")
    if prefix in FILTER_MODELS or model == SMALL_CNN or (colon and prefix == TRIPLET):
        return prefix
    if not colon:
        return "torchvision"
    return prefix if prefix in SOURCES else "module"


def list_sources() -> list[tuple[str, str, bool]]:
    """Return the sources beside torchvision: name, distribution, and whether it is installed."""
    found = [(s, name, find_spec(module) is not None) for s, (module, name) in SOURCES.items()]
    for entry in entry_points(group=ENTRY_POINTS):
        found.append((entry.name, entry.dist.name if entry.dist else entry.name, True))
    return found


def entry_point(source: str) -> EntryPoint | None:
    """Return the entry point with which a package adds a source, or None."""
    return next(iter(entry_points(group=ENTRY_POINTS, name=source)), None)


def source_facts(model: str) -> dict[str, str]:
    """Return what else a network's name depends on, beside torch: versions, or the user's code."""
    source = source_of(model)
    if source in SOURCES:
        # OpenCLIP and torchgeo build networks of timm.
        return {name: version(name) for name in dict.fromkeys([SOURCES[source][1], "timm"])}
    if source != "module":
        return {}
    prefix = model.partition(":")[0]
    if (entry := entry_point(prefix)) is not None:
        return {entry.dist.name: entry.dist.version} if entry.dist else {}
    import_from()
    return {"source": source_digest(prefix)}


def source_digest(module: str) -> str:
    """Return the sha256 of a module's file, and of the other files of its package.

    The module is not imported.
    """
    spec = find_spec(module.partition(".")[0])
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        return "unknown"
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    digest = hashlib.sha256()
    for path in files or [Path(str(spec.origin))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_model(name: str) -> str:
    """Return the name of a model, or refuse one that does not exist.

    Of another source than torchvision, only the source is checked: its names need its library.
    """
    source = source_of(name)
    if source == "torchvision" and name not in MODEL_NAMES:
        raise BackboneError(
            f"There is no network {name!r}.{did_you_mean(name, MODEL_NAMES)} `featstore models` "
            "lists all networks, for example resnet50, vgg19, mobilenet_v2."
        )
    if source in SOURCES:
        module, distribution = SOURCES[source]
        if find_spec(module) is None:
            raise BackboneError(
                f"{name} needs {distribution}, which is not installed. Install it with: "
                f"pip install {distribution}"
            )
    if source in FILTER_MODELS:
        filter_settings(name)
    if source == TRIPLET:
        check_backbone(name.partition(":")[2])
    if source == "module":
        _check_module(name)
    return name


def check_backbone(name: str) -> str:
    """Return the name of a network that can be trained by triplets, or refuse another."""
    known = (*NETWORK_NAMES, SMALL_CNN)
    if name not in known:
        raise BackboneError(
            f"{name!r} can't be trained by triplets.{did_you_mean(name, known)} Use {SMALL_CNN} or "
            "a network of torchvision, such as resnet50 or mobilenet_v2."
        )
    return name


def _check_module(name: str) -> None:
    prefix, _, rest = name.partition(":")
    if rest and entry_point(prefix) is not None:
        return
    import_from()
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", name) or find_spec(prefix.partition(".")[0]) is None:
        raise BackboneError(
            f"{prefix!r} is neither a source of networks nor a module that can be imported from "
            f"here.{did_you_mean(prefix, [*SOURCES, *FILTER_MODELS])} `featstore models` lists the "
            "sources; a network of your own is package.module:function."
        )
