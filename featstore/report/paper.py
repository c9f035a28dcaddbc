"""The paper: what Kadhim and Abed published, and which layers their comparison is made of.

M. A. Kadhim, M. H. Abed, *Convolutional Neural Network for Satellite Image Classification*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featstore.models.layer_names import FEATURE_LAYERS, VGG_BLOCKS
from featstore.models.names import HAND_MODEL, TRIPLET

DATASETS = ("sat4", "sat6", "ucmerced")


MODELS = ("alexnet", "vgg19", "googlenet", "resnet50")


N_EPOCHS = 250
"""Epochs of Figures 4 to 6."""


EPOCH_CLF = "softmax"
"""The classifier of Figures 4 to 6: one layer of weights, trained by epochs."""


PUBLISHED: dict[str, tuple[tuple[str, str, float], ...]] = {
    "sat4": (
        ("DeepSat (Basu et al. 2015)", "deepsat", 0.97946),
        ("SatCNN, agile CNN (Zhong et al. 2017)", "satcnn", 0.9965),
        ("Triplet networks (Liu & Huang 2018)", "triplet", 0.9972),
        ("AlexNet features", "alexnet", 0.84),
        ("VGG19 features", "vgg19", 0.89),
        ("GoogLeNet features", "googlenet", 0.91),
        ("ResNet50 features (proposed)", "resnet50", 0.958),
    ),
    "sat6": (
        ("DeepSat (Basu et al. 2015)", "deepsat", 0.93916),
        ("SatCNN, agile CNN (Zhong et al. 2017)", "satcnn", 0.9954),
        ("Triplet networks (Liu & Huang 2018)", "triplet", 0.9965),
        ("AlexNet features", "alexnet", 0.82),
        ("VGG19 features", "vgg19", 0.84),
        ("GoogLeNet features", "googlenet", 0.89),
        ("ResNet50 features (proposed)", "resnet50", 0.941),
    ),
    "ucmerced": (
        ("Triplet networks (Liu & Huang 2018)", "triplet", 0.9799),
        ("AlexNet features", "alexnet", 0.87),
        ("VGG19 features", "vgg19", 0.89),
        ("GoogLeNet features", "googlenet", 0.90),
        ("ResNet50 features (proposed)", "resnet50", 0.98),
    ),
}
"""Method, what :func:`method_of` calls it, and accuracy, by dataset: Table 4."""


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


RIVALS = {
    "deepsat": (
        "After DeepSat (Basu et al. 2015)",
        "DeepSat: 150 hand features and a deep belief network of default size, as the article's "
        "exact features and sizes are not known.",
    ),
    "satcnn": (
        "After SatCNN (Zhong et al. 2017)",
        "SatCNN: a small network trained on the training images, as the letter's layers are not "
        "known; a classifier is fitted to its last features.",
    ),
    "triplet": (
        "After triplet networks (Liu & Huang 2018)",
        "Triplet networks: hinge losses of the hardest triplets (Hermans et al. 2017, "
        "arXiv:1703.07737), as the formulae of the article's four losses are not known; of images "
        "over 64 pixels a projection of the stored features is learned in place of a network.",
    ),
}
"""The methods that the paper compares itself with: a name, and how ours departs from theirs."""


WORTH = (
    "What these scores are worth: on SAT-6, 12 pixel statistics and kNN are published at 99.60 %, "
    "random convolutions at 99.66 %, and ImageNet features of ResNet50 at 224 pixels at 99.89 % "
    "(Corley et al. 2023, arXiv:2305.13456), because test images are neighbors of training images. "
    "The paper's 94.1 % is not a ceiling."
)
"""Published scores of simple methods on SAT-6, whose 81,000 test images come from its scenes."""


def method_of(model: str, clf: str) -> str:
    """Return the method of :data:`PUBLISHED` that a model and a classifier are.

    Other classifiers on DeepSat's features are not DeepSat.
    """
    if clf == "triplet" or model.startswith(f"{TRIPLET}:"):
        return "triplet"
    if model == HAND_MODEL and clf != "dbn":
        return ""
    return network(model)


def network(model: str) -> str:
    """Return the network of the paper that a model is.

    The two stride arrangements of ResNet-50 are the same row of its tables.
    """
    return model.removesuffix("_v1")
