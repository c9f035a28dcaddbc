"""The published protocols of ``fit --protocol``: what each fixes, its source, and its gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featstore.config import PROTOCOL_NAMES, FitConfig
from featstore.errors import ConfigError, FitError
from featstore.fitting.grids import logarithmic
from featstore.store.selection import Selection
from featstore.text import did_you_mean, join_some

Settings = Mapping[str, Any]
"""Fields of :class:`featstore.config.FitConfig`."""


FC_LAYERS = ("fc8", "loss3-classifier", "fc1000", "classifier.1")
"""The final layers of the paper's networks and of MobileNetV2."""


@dataclass(frozen=True)
class Protocol:
    """A published way to judge features.

    `fits` are the settings of each of its fits. `layers` and `image_sizes` are those that its
    features must have, any if empty. `rules` says what it does, `unknown` what its source leaves
    open and what is done here otherwise.
    """

    name: str
    fits: tuple[Settings, ...]
    rules: str
    source: str
    unknown: str
    layers: tuple[str, ...] = ()
    image_sizes: tuple[int, ...] = ()

    def configs(self, settings: Settings) -> list[FitConfig]:
        """Return its fits with the settings that it leaves open, such as seeds."""
        return [FitConfig(**{**settings, **own, "protocol": self.name}) for own in self.fits]

    def check(self, selection: Selection) -> None:
        """Refuse features, or labels, that the protocol is not for."""
        problem = self._problem(selection)
        if problem:
            raise FitError(
                f"The protocol {self.name} can't be followed: {problem}. Choose other features, or "
                "leave out --protocol."
            )

    def _problem(self, selection: Selection) -> str:
        if selection.task != "classification":
            return f"it is for images of one class each, and those of {selection.title} are not"
        if self.layers and (others := sorted(set(selection.layers) - set(self.layers))):
            return f"it takes a final layer ({join_some(self.layers)}) and not {join_some(others)}"
        sizes = {part.preprocess.image_size for part in selection.feature_specs}
        if self.image_sizes and not sizes <= set(self.image_sizes):
            found = join_some([f"{size} px" if size else "their own size" for size in sizes])
            wanted = " or ".join(map(str, self.image_sizes))
            return f"it takes images of {wanted} px, and these have {found}"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "fits": [dict(own) for own in self.fits],
            "rules": self.rules,
            "source": self.source,
            "unknown": self.unknown,
            "layers": list(self.layers),
            "image_sizes": list(self.image_sizes),
        }

    @property
    def text(self) -> str:
        """What it does, its source, and its gaps, in words."""
        return f"{self.rules} Source: {self.source}. Not known, or done otherwise: {self.unknown}"


NEIGHBORS: Settings = {
    "clf": "knn",
    "params": (("n_neighbors", 5), ("weights", "uniform")),
    "scale": "none",
}
"""Five nearest neighbors of unscaled features, by L2 distance, with one vote each."""


def _regression(n: int, low: float, high: float, **params: Any) -> Settings:
    """Return a logistic regression of unscaled features, C by validation images."""
    return {
        "clf": "logreg",
        "params": tuple({"max_iter": 1000, **params}.items()),
        "scale": "none",
        "search": "validation",
        "grid": (("C", tuple(logarithmic(low, high, n))),),
    }


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "torchgeo-bench",
            (
                NEIGHBORS,
                _regression(40, -6, 4),
            ),
            "5 nearest neighbors by L2 distance, and logistic regression, on unscaled features; "
            "one of 40 values of C from 1e-6 to 1e4 by accuracy on the validation images, then "
            "fitted to training and validation images together.",
            "torchgeo-bench, https://github.com/torchgeo/torchgeo-bench (its configuration of "
            "2026; earlier ones had 20 values from 1e-7 to 1e2)",
            "it resizes images to 224 px with bilinear interpolation and takes red, green and "
            "blue: extract them so. Without validation images a tenth of the training images "
            "chooses C here. Of two classes, it penalises two vectors of weights, which is twice "
            "the C of one. Its intervals are of 200 bootstrap draws, here of 1,000.",
        ),
        Protocol(
            "dinov3-logreg",
            (_regression(45, -6, 5, tol=1e-6),),
            "Logistic regression on unscaled features; one of 45 values of C from 1e-6 to 1e5 by "
            "accuracy on the validation images, or on a tenth of the training images, then fitted "
            "to both.",
            "DINOv3, Siméoni et al. 2025, arXiv:2508.10104; dinov3/eval/log_regression.py in "
            "https://github.com/facebookresearch/dinov3",
            "which images are in its tenth; here the tenth has each class's share. It trains in "
            "float64 to a tolerance of 1e-12, here in float32 to 1e-6, of the same loss, for at "
            "most 1,000 iterations in both.",
        ),
        Protocol(
            "dino-knn",
            tuple(
                {
                    "clf": "similarity-knn",
                    "params": (("n_neighbors", k), ("temperature", 0.07)),
                    "scale": "none",
                }
                for k in (10, 20, 100, 200)
            ),
            "10, 20, 100 and 200 nearest neighbors of features of length 1, each with the vote "
            "exp(similarity / 0.07); all four are reported.",
            "DINO, Caron et al. 2021, arXiv:2104.14294; dinov3/eval/knn.py in "
            "https://github.com/facebookresearch/dinov3",
            "which of the four a paper reports: the best of four by test scores is too high. "
            "Images are resized to 256 px and cropped to 224 px: extract them so.",
        ),
        Protocol(
            "corley",
            (NEIGHBORS,),
            "5 nearest neighbors by L2 distance on unscaled features of images of 224 or 256 px.",
            "Corley et al. 2023, Revisiting pre-trained remote sensing model benchmarks, "
            "arXiv:2305.13456",
            "the split of UC Merced is torchgeo's, a list of files: give it with extract --splits.",
            image_sizes=(224, 256),
        ),
        Protocol(
            "paper",
            ({"clf": "softmax", "n_epochs": 250},),
            "A softmax layer of standardised features of the final layer, trained for 250 epochs, "
            "on 70 % of the images of each class, and tested on 30 %.",
            "Kadhim and Abed, Convolutional Neural Network for Satellite Image Classification "
            "(no DOI is known here)",
            "which images are in the 30 %, the classifier of its Table 4 (the softmax layer is "
            "that of its Figures 4 to 6), and the learning rate. A dataset with an official split "
            "keeps it here; others have the seeded split that is stored with the features.",
            layers=FC_LAYERS,
        ),
    )
}
"""The protocols by name."""


FIXED = ("clf", "params", "grid", "search", "cv", "n_candidates", "n_epochs", "scale")
"""Settings that a protocol fixes."""


def find_protocol(name: str) -> Protocol:
    """Return the protocol of a name."""
    if name not in PROTOCOLS:
        raise ConfigError(
            f"There is no protocol {name!r}.{did_you_mean(name, PROTOCOL_NAMES)} There are "
            f"{', '.join(PROTOCOL_NAMES)}."
        )
    return PROTOCOLS[name]


def contradiction(name: str, given: Sequence[str]) -> str:
    """Say that options, or settings, contradict a protocol that fixes them."""
    verb = "contradicts" if len(given) == 1 else "contradict"
    return (
        f"{join_some(list(given))} {verb} the protocol {name}, which fixes the classifiers, their "
        "parameters, the scaling and the search. Leave out one or the other."
    )
