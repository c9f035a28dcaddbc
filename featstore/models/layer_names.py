"""The papers' layer names for torchvision's nodes, and notes on the papers' networks.

The names are Caffe's, which MATLAB took over and the paper uses in its Tables 1 and 2. A node is
an operation in the network's traced graph, named after its module as torchvision names it.
"""

from __future__ import annotations

FEATURE_LAYERS = {
    "alexnet": "fc8",
    "vgg19": "fc8",
    "googlenet": "loss3-classifier",
    "resnet50": "fc1000",
    "resnet50_v1": "fc1000",
}
"""The layer whose output is the feature vector: Table 1 of Kadhim & Abed."""


VGG_BLOCKS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions in each block: Simonyan & Zisserman 2015, Table 1, arXiv:1409.1556."""


RESNET_BLOCKS = {
    "resnet50": (3, 4, 6, 3),
    "resnet50_v1": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
"""Bottlenecks in each stage: He et al. 2015, Table 1, arXiv:1512.03385."""


INCEPTIONS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
"""Inception modules: Szegedy et al. 2014, Table 1, arXiv:1409.4842."""


NOTES = {
    "alexnet": "torchvision's single-tower AlexNet (64 filters in conv1) on 224 px; the paper's is "
    "Caffe's with two groups (96 filters) on 227 px.",
    "googlenet": "Caffe's convolutions have a bias where torchvision's are followed by batch "
    "normalisation: a convolution's name means the latter's output.",
    "resnet50": "torchvision's v1.5, with a stage's stride in its first 3x3 convolution. The "
    "paper's MATLAB network is v1, with the stride in the 1x1 before it: resnet50_v1.",
    "resnet50_v1": "The paper's (and MATLAB's) ResNet-50, with a stage's stride in its first 1x1 "
    "convolution. torchvision has no weights for it: give --weights FILE.",
}
"""How torchvision's networks differ from the papers', for people."""


def paper_layers(model: str) -> dict[str, str]:
    """Return the papers' layer names of a network, each with its node, in network order.

    The dict is empty for a network without such names.
    """
    if model == "alexnet":
        return _alexnet()
    if model in VGG_BLOCKS:
        return _vgg(VGG_BLOCKS[model])
    if model == "googlenet":
        return _googlenet()
    if model in RESNET_BLOCKS:
        return _resnet(RESNET_BLOCKS[model])
    return {}


def _alexnet() -> dict[str, str]:
    features = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3"]
    features += ["conv4", "relu4", "conv5", "relu5", "pool5"]
    names = {name: f"features.{i}" for i, name in enumerate(features)}
    classifier = {1: "fc6", 2: "relu6", 4: "fc7", 5: "relu7", 6: "fc8"}
    return names | {name: f"classifier.{i}" for i, name in classifier.items()}


def _vgg(blocks: tuple[int, ...]) -> dict[str, str]:
    names: dict[str, str] = {}
    for block, n_convs in enumerate(blocks, start=1):
        for conv in range(1, n_convs + 1):
            names[f"conv{block}_{conv}"] = f"features.{len(names)}"
            names[f"relu{block}_{conv}"] = f"features.{len(names)}"
        names[f"pool{block}"] = f"features.{len(names)}"
    classifier = {0: "fc6", 1: "relu6", 3: "fc7", 4: "relu7", 6: "fc8"}
    return names | {name: f"classifier.{i}" for i, name in classifier.items()}


def _resnet(blocks: tuple[int, ...]) -> dict[str, str]:
    names = {"conv1": "conv1", "bn_conv1": "bn1", "conv1_relu": "relu", "pool1": "maxpool"}
    for stage, n_blocks in enumerate(blocks, start=2):
        for block in range(n_blocks):
            paper = f"{stage}{_block_name(block, n_blocks)}"
            node = f"layer{stage - 1}.{block}"
            if block == 0:
                names[f"res{paper}_branch1"] = f"{node}.downsample.0"
                names[f"bn{paper}_branch1"] = f"{node}.downsample.1"
            for i, branch in enumerate("abc", start=1):
                names[f"res{paper}_branch2{branch}"] = f"{node}.conv{i}"
                names[f"bn{paper}_branch2{branch}"] = f"{node}.bn{i}"
                if branch != "c":
                    relu = "relu" if branch == "a" else "relu_1"
                    names[f"res{paper}_branch2{branch}_relu"] = f"{node}.{relu}"
            names[f"res{paper}"] = f"{node}.add"
            names[f"res{paper}_relu"] = f"{node}.relu_2"
    return names | {"pool5": "avgpool", "fc1000": "fc"}


def _block_name(block: int, n_blocks: int) -> str:
    # He's ResNet-101 and -152 have more blocks than there are letters: a, b1, b2, ...
    if n_blocks <= 6:
        return "abcdef"[block]
    return "a" if block == 0 else f"b{block}"


def _googlenet() -> dict[str, str]:
    # Caffe's convolutions have a bias; torchvision's have none and a batch normalisation after
    # each, whose output is therefore the counterpart of Caffe's convolution before its ReLU.
    names = {
        "conv1-7x7_s2": "conv1.bn",
        "conv1-relu_7x7": "conv1.relu",
        "pool1-3x3_s2": "maxpool1",
        "conv2-3x3_reduce": "conv2.bn",
        "conv2-relu_3x3_reduce": "conv2.relu",
        "conv2-3x3": "conv3.bn",
        "conv2-relu_3x3": "conv3.relu",
        "pool2-3x3_s2": "maxpool2",
    }
    pools = {"3b": "pool3-3x3_s2", "4e": "pool4-3x3_s2"}
    for module in INCEPTIONS:
        node = f"inception{module}"
        branches = {
            "1x1": "branch1",
            "3x3_reduce": "branch2.0",
            "3x3": "branch2.1",
            "5x5_reduce": "branch3.0",
            "5x5": "branch3.1",
            "pool_proj": "branch4.1",
        }
        for paper, branch in branches.items():
            if paper == "pool_proj":
                names[f"inception_{module}-pool"] = f"{node}.branch4.0"
            names[f"inception_{module}-{paper}"] = f"{node}.{branch}.bn"
            names[f"inception_{module}-relu_{paper}"] = f"{node}.{branch}.relu"
        names[f"inception_{module}-output"] = f"{node}.cat"
        if module in pools:
            names[pools[module]] = f"maxpool{pools[module][4]}"
    return names | {"pool5-7x7_s1": "avgpool", "loss3-classifier": "fc"}


def other_names(model: str) -> dict[str, str]:
    """Return further names in use for the papers' layers: name -> paper's name."""
    if model in RESNET_BLOCKS:
        return {"avg_pool": "pool5"}
    if model != "googlenet":
        return {}
    modules = {f"inception_{module}": f"inception_{module}-output" for module in INCEPTIONS}
    short = {"conv1": "conv1-7x7_s2", "conv2": "conv2-3x3", "pool5": "pool5-7x7_s1"}
    # Caffe separates module and layer by a slash, MATLAB by a hyphen.
    slashes = {name.replace("-", "/", 1): name for name in _googlenet()}
    return modules | short | slashes
