"""What the paper's study is made of: its settings, and the steps that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from featstore.config import ExtractConfig
from featstore.datasets.registry import dataset_names, find_format
from featstore.errors import ConfigError, FitError
from featstore.fitting.classifiers import find_classifier
from featstore.models.names import HAND_MODEL, PIXEL_MODEL, SMALL_CNN
from featstore.report import paper

SMALL_IMAGES = ("sat4", "sat6", "demo")
"""Datasets of 28 pixel images, on which a triplet network is trained in minutes without a GPU."""


QUICK_IMAGES = 1_000
"""Images of each dataset in a quick study."""


STOCK = "imagenet"
"""Weights that a machine without network access may lack."""


@dataclass(frozen=True)
class Study:
    """The datasets, networks and classifiers to compare.

    Parameters
    ----------
    datasets : tuple of str
        ``sat4``, ``sat6``, ``ucmerced``, ``folder`` or ``demo``.
    models : tuple of str
        Networks of :func:`featstore.report.study_models`.
    clf : tuple of str
        Classifiers to fit on every layer.
    root : str, optional
        Folder of the datasets, see :func:`featstore.datasets.open_dataset`.
    limit : int, optional
        Images of each dataset, spread over its classes; by default all.
    seed : int
        Seed of everything random.
    weights : str
        As of :class:`featstore.config.ExtractConfig`; a file fits one network.
    device : str
        Device of the networks.
    rivals : bool
        Whether to run the methods that the paper compares itself with, too: features and
        classifiers after DeepSat, SatCNN and triplet networks; see :func:`steps`.

    Raises
    ------
    ConfigError
        When there is nothing to compare, a network or classifier is unknown, or a value is out of
        range.
    """

    datasets: tuple[str, ...] = paper.DATASETS
    models: tuple[str, ...] = paper.MODELS
    clf: tuple[str, ...] = ("logreg",)
    root: str | None = None
    limit: int | None = None
    seed: int = 0
    weights: str = STOCK
    device: str = "auto"
    rivals: bool = False

    def __post_init__(self) -> None:
        for name in ("datasets", "models", "clf"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; name at least one.")
        for dataset in self.datasets:
            if find_format(dataset) is None:
                raise ConfigError(
                    f"There is no dataset {dataset!r}; there are {', '.join(dataset_names())}."
                )
        for model in self.models:
            if paper.study_layers(model) is None:
                raise ConfigError(
                    f"The study does not know the layers of {model!r}; it knows those of "
                    f"{', '.join(paper.study_models())}. Other networks: featstore extract --model "
                    f"{model} --layers A,B and featstore fit --layers A --layers A,B."
                )
        # Refuse now what the last step would refuse.
        ExtractConfig(
            self.models[0],
            self.datasets[0],
            limit=self.limit,
            seed=self.seed,
            device=self.device,
        )
        for clf in self.clf:
            try:
                if clf != "all":
                    find_classifier(clf)
            except FitError as error:
                raise ConfigError(str(error)) from error


@dataclass(frozen=True)
class Step:
    """One pass of a model over a dataset, and the fits to its features.

    One pass computes all `layers`; an empty tuple stands for the model's default. Every classifier
    of `clf` is fitted on each of the `selections`, and the one of the paper's Figures 4 to 6 on the
    layer `by_epochs`. `training` are the settings of :func:`featstore.training.train` that make the
    model's weights; without them they are the study's.
    """

    dataset: str
    model: str
    clf: tuple[str, ...]
    layers: tuple[str, ...] = ()
    selections: tuple[str | None, ...] = (None,)
    by_epochs: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_parts(self) -> int:
        """Units of progress: the training, the pass, the fits, the fit by epochs."""
        return bool(self.training) + 2 + (self.by_epochs is not None)


def steps(study: Study) -> Iterator[Step]:
    """Yield the steps of a study, dataset by dataset, the cheapest first.

    Pixel statistics are the baseline of the networks: on SAT-6 they alone give 99.6 % (Corley et
    al. 2023, arXiv:2305.13456).
    """
    for dataset in study.datasets:
        yield Step(dataset, PIXEL_MODEL, study.clf)
        for model in study.models:
            layers = paper.study_layers(model)
            assert layers is not None
            yield Step(dataset, model, study.clf, layers.names, layers.selections, layers.final)
        if study.rivals:
            yield from rival_steps(dataset, study)


def rival_steps(dataset: str, study: Study) -> Iterator[Step]:
    """Yield the steps of the methods that the paper compares itself with.

    A triplet network is trained as a whole on small images. On larger ones that takes a GPU, so
    triplets are learned from the stored features of the paper's network.
    """
    yield Step(dataset, HAND_MODEL, ("dbn",))
    yield Step(dataset, SMALL_CNN, study.clf, training={"network": SMALL_CNN})
    if dataset in SMALL_IMAGES:
        training = {"network": "triplet", "backbone": SMALL_CNN}
        yield Step(dataset, f"triplet:{SMALL_CNN}", ("linear-svm",), training=training)
        return
    model = next((name for name in study.models if paper.network(name) == "resnet50"), None)
    model = model or study.models[-1]
    layers = paper.study_layers(model)
    assert layers is not None
    yield Step(dataset, model, ("triplet",), (layers.final,), (layers.final,))
