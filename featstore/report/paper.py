"""The paper: what Kadhim and Abed published, and which layers their comparison is made of.

M. A. Kadhim, M. H. Abed, *Convolutional Neural Network for Satellite Image Classification*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featstore.models.layer_names import FEATURE_LAYERS, VGG_BLOCKS

DATASETS = ("sat4", "sat6", "ucmerced")


MODELS = ("alexnet", "vgg19", "googlenet", "resnet50")


N_EPOCHS = 250
"""Epochs of Figures 4 to 6."""


EPOCH_CLF = "softmax"
"""The classifier of Figures 4 to 6: one layer of weights, trained by epochs."""


PUBLISHED: dict[str, tuple[tuple[str, str | None, float], ...]] = {
    "sat4": (
        ("DeepSat (Basu et al. 2015)", None, 0.97946),
        ("SatCNN, agile CNN (Zhong et al. 2017)", None, 0.9965),
        ("Triplet networks (Liu & Huang 2018)", None, 0.9972),
        ("AlexNet features", "alexnet", 0.84),
        ("VGG19 features", "vgg19", 0.89),
        ("GoogLeNet features", "googlenet", 0.91),
        ("ResNet50 features (proposed)", "resnet50", 0.958),
    ),
    "sat6": (
        ("DeepSat (Basu et al. 2015)", None, 0.93916),
        ("SatCNN, agile CNN (Zhong et al. 2017)", None, 0.9954),
        ("Triplet networks (Liu & Huang 2018)", None, 0.9965),
        ("AlexNet features", "alexnet", 0.82),
        ("VGG19 features", "vgg19", 0.84),
        ("GoogLeNet features", "googlenet", 0.89),
        ("ResNet50 features (proposed)", "resnet50", 0.941),
    ),
    "ucmerced": (
        ("Triplet networks (Liu & Huang 2018)", None, 0.9799),
        ("AlexNet features", "alexnet", 0.87),
        ("VGG19 features", "vgg19", 0.89),
        ("GoogLeNet features", "googlenet", 0.90),
        ("ResNet50 features (proposed)", "resnet50", 0.98),
    ),
}
"""Method, its network where it is one of ours, and accuracy, by dataset: Table 4."""


N_ROWS = {"sat4": (400_000, 100_000), "sat6": (324_000, 81_000), "ucmerced": (1_470, 630)}
"""Training and test images: Table 3."""


FINAL, ALL = "final layer", "all three"


ROLES = ("first convolution", "deep convolution", FINAL, ALL)
"""What the paper compares: section 5 sets the combination beside the single layers."""


@dataclass(frozen=True)
class StudyLayers:
    """The layers of a network that the paper's comparison is made of.

    Parameters
    ----------
    first : str
        Its first convolution.
    deep : str
        A deep one: the deepest that the paper's Table 2 lists.
    final : str
        The feature layer: Table 1.
    """

    first: str
    deep: str
    final: str

    @property
    def names(self) -> tuple[str, str, str]:
        """The three, from the image on."""
        return self.first, self.deep, self.final

    @property
    def selections(self) -> tuple[str, ...]:
        """What classifiers are fitted on, by :data:`ROLES`: each alone, and all side by side."""
        return (*self.names, ",".join(self.names))


_OTHERS = {
    "alexnet": StudyLayers("conv1", "conv4", "fc8"),
    "googlenet": StudyLayers("conv1-7x7_s2", "inception_3b-1x1", "loss3-classifier"),
    # Not of the paper: the network of the demo.
    "mobilenet_v2": StudyLayers("features.0", "features.13.conv.2", "classifier.1"),
}


def study_models() -> tuple[str, ...]:
    """Return the networks whose layers :func:`study_layers` knows."""
    return (*MODELS, "resnet50_v1", *sorted({*_OTHERS, *VGG_BLOCKS} - {*MODELS}))


def study_layers(model: str) -> StudyLayers | None:
    """Return the layers of a network that are compared; None where that is not known.

    Parameters
    ----------
    model : str
        A network's name.
    """
    if model in VGG_BLOCKS:
        return StudyLayers("conv1_1", "conv4_1", FEATURE_LAYERS.get(model, "fc8"))
    if model in ("resnet50", "resnet50_v1"):
        return StudyLayers("conv1", "res4e_branch2c", FEATURE_LAYERS[model])
    return _OTHERS.get(model)


def role(model: str, layers: Sequence[str]) -> str | None:
    """Return which of :data:`ROLES` layers of a network have; None where they have none.

    Parameters
    ----------
    model : str
    layers : sequence of str
        By their names in the store.
    """
    known = study_layers(model)
    if known is None:
        return None
    asked = ",".join(layers)
    return dict(zip(known.selections, ROLES, strict=True)).get(asked)


def network(model: str) -> str:
    """Return the network of the paper that a model is.

    The two stride arrangements of ResNet-50 are the same row of its tables.
    """
    return model.removesuffix("_v1")
