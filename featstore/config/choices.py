"""The values that settings take, by name."""

from __future__ import annotations

SPLITS = ("train", "test", "val")
"""Names of the splits; a sample's split is stored as its position here."""


TASKS = ("classification", "multilabel", "regression")
"""What a label is: one class, any number of classes, or a number."""


TOKEN_POOLS = ("cls", "tokens", "cls+tokens")
"""Poolings of a layer with a class token: that token, the mean of the image's own, or both."""


POOLS = ("auto", "avg", "max", "avgmax", "flatten", "gem", *TOKEN_POOLS)


BANDS = ("rgb", "gray", "all")
"""Bands that have a name of their own; others are given by number or by the files' names."""


PRECISIONS = ("auto", "fp32", "bf16", "fp16")


COMPILE = ("auto", "on", "off")


FEATURE_DTYPES = ("auto", "float32", "float16")


ON_ERROR = ("stop", "mask")


LABEL_BY = ("majority", "centre")
"""What gives a window its label: the polygons over more than half of it, or over its middle."""


SEARCHES = ("grid", "random", "halving", "validation")


LEVEL = 0.05
"""Level of significance of all tests."""


METRICS = ("cosine", "euclidean")
"""Distances between features; the first is the default."""


PROJECTIONS = ("pca", "tsne", "umap")
"""Ways to draw features in two dimensions; the first is the default."""


EXPORT_TARGETS = ("onnxruntime", "deepness")
"""Programs for which a model is written; the first is the default."""


MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 16, 4096


USUAL_IMAGE_SIZE = 224
"""Side, in pixels, of most networks' input."""


MAX_BATCH_SIZE = 65536


CLASSIFIER_NAMES = (
    "logreg",
    "linear-svm",
    "svm",
    "mlp",
    "sgd",
    "dbn",
    "softmax",
    "ridge",
    "lda",
    "knn",
    "similarity-knn",
    "triplet",
    "nystroem-svm",
)
"""Names of :data:`featstore.fitting.classifiers.CLASSIFIERS`, without loading scikit-learn."""


REGRESSOR_NAMES = ("ridge", "kernel-ridge", "knn", "mlp")
"""Names of :data:`featstore.fitting.regressors.REGRESSORS`, which predict a number."""


FIT_NAMES = tuple(dict.fromkeys((*CLASSIFIER_NAMES, *REGRESSOR_NAMES)))
"""All names that ``--clf`` takes."""


SET_FACETS = ("weights", "bands", "image_size", "precision", "dtype", "set_id")
"""What tells feature sets of the same images and model apart; see :class:`FitConfig` for fits."""


PROTOCOL_NAMES = ("torchgeo-bench", "dinov3-logreg", "dino-knn", "corley", "paper")
"""Names of :data:`featstore.fitting.protocols.PROTOCOLS`, without loading scikit-learn."""


SCALES = ("standard", "none")
"""What is done to features before a classifier; by default the classifier decides."""


MAX_EXPLORED = 20_000
"""Images on a page of the explorer: more make it slow to load."""


SEARCH_SETTINGS = {"cv": SEARCHES[:3], "n_candidates": ("random", "halving")}
"""Settings of a search, and the searches that use them."""


FOLDS = (2, 100)
"""Fewest and most folds of a search."""
