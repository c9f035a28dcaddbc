"""Train a network on the training images of a dataset; no test image is read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from featstore._signatures import settings_of, takes
from featstore.config import ExtractConfig, TrainConfig
from featstore.datasets.duplicates import image_digests
from featstore.datasets.registry import resolve_dataset
from featstore.environment import command, version
from featstore.errors import ConfigError, TrainError
from featstore.extraction.spec import Images, open_images, with_known_range
from featstore.io.files import make_folder, with_resume_hint
from featstore.io.locks import locked
from featstore.models.devices import describe_device
from featstore.models.trained import Training, read_trained, short_digests, to_bytes
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.store.feature_store import FeatureStore, open_store
from featstore.text import file_name, percent
from featstore.training.checkpoint import (
    Progressed,
    best_of,
    checkpoint_path,
    differences,
    read_state,
    write_state,
)
from featstore.training.epochs import Trainer, deterministic
from featstore.training.images import band_statistics, read_images
from featstore.training.networks import build_network
from featstore.training.objectives import ClassObjective, TripletObjective
from featstore.training.plan import Plan, make_plan
from featstore.training.result import TrainedModel, read_result, write_result

FOLDER = "trained"
"""Where weights are written that nobody names a place for."""


OF_IMAGES = (
    *("root", "limit", "seed", "bands", "value_range", "nodata", "image_size", "device"),
    *("follow_links", "columns", "task", "split_files", "groups_from"),
    *("window", "stride", "labels", "label_column", "label_by"),
)
"""Settings of :class:`.ExtractConfig` that say which images a network is trained on, and how."""


def patience(epochs: int) -> int:
    """Return the epochs without a better one after which a training ends."""
    return max(5, epochs // 3)


@takes(*settings_of(TrainConfig, but=("network",)), *settings_of(ExtractConfig, only=OF_IMAGES))
def train(
    network: str,
    dataset: str,
    *,
    store: str | Path | FeatureStore | None = None,
    out: str | Path | None = None,
    progress: Progress = IN_NOTEBOOKS,
    **options: Any,
) -> TrainedModel:
    """Train a network on the training images of a dataset, unless its weights are there.

    A tenth of the training images is held out, of each class or in whole groups, and chooses the
    epoch. Test images are not read. An interrupted training continues after its last whole epoch,
    and ends with the same bytes on the same machine.

    Parameters
    ----------
    network : str
        ``satcnn``, or ``triplet``.
    dataset : str
        As of :func:`featstore.extract`.
    store : str, Path or FeatureStore
        The store for which the weights are meant: it keeps hashes of the images' files.
    out : str or Path, optional
        File of the weights, ending in .pth; by default in the folder ``trained``.
    progress : Progress
        Receives phases and messages.
    **options
        Settings of :class:`featstore.config.TrainConfig`, and the settings of
        :class:`featstore.config.ExtractConfig` that choose images, bands, size and device.

    Returns
    -------
    TrainedModel

    Raises
    ------
    TrainError
        When nothing can be learned from the images, the loss is not finite, or the place holds
        other weights.
    FeatstoreError
        When a setting, file, image or the disk prevents it.

    Examples
    --------
    >>> import featstore
    >>> featstore.train("satcnn", "sat4", root="data", epochs=15)  # doctest: +SKIP
    """
    own = {name: value for name, value in options.items() if name not in OF_IMAGES}
    config = TrainConfig(network, **own)
    dataset, root = resolve_dataset(dataset, options.get("root"))
    settings = {name: options[name] for name in OF_IMAGES if name in options} | {"root": root}
    images_config = ExtractConfig(config.model, dataset, **settings)
    opened = open_store(store, progress)
    images = open_images(images_config, opened, progress)
    images_config, images = with_known_range(images_config, images)
    path = _check_out(out, config, images.dataset.title)
    with with_resume_hint(path.parent, command()):
        make_folder(path.parent)
        lock = path.with_name(f".{path.stem}.lock")
        with locked(lock, f"The training of {path}", progress):
            return _train(config, images_config, images, path, progress)


def _check_out(out: str | Path | None, config: TrainConfig, title: str) -> Path:
    if out is None:
        parts = [config.network, *([config.backbone] if config.backbone else []), title]
        return Path(FOLDER) / f"{file_name('-'.join(parts))}.pth"
    path = Path(out)
    if path.suffix != ".pth" or path.is_dir():
        raise ConfigError(f"{path} is not the name of a .pth file. Write: --out {path}.pth")
    return path


def _train(
    config: TrainConfig,
    images_config: ExtractConfig,
    images: Images,
    path: Path,
    progress: Progress,
) -> TrainedModel:
    plan = make_plan(config, images_config, images, progress)
    if path.is_file():
        return _answer(path, plan.request)
    state_path = checkpoint_path(path)
    begun = read_state(state_path, plan.request)
    dataset, rows = images.dataset, plan.rows
    pixels = read_images(dataset, rows.rows, plan.preprocess, progress)
    digests = image_digests(dataset.subset(rows.rows), images.cache, progress)
    images.watch.check()
    fit = torch.from_numpy(rows.is_fit.nonzero()[0])
    statistics = (plan.expected.mean, plan.expected.std)
    if plan.start is None:
        statistics = band_statistics(pixels, fit)
    with deterministic(plan.device, begun.n_threads if begun else None):
        trainer = _make_trainer(plan, pixels, fit, statistics)
        done = _run(trainer, plan, begun, state_path, progress)
    best = best_of(done.epochs)
    training = Training.model_validate(
        {
            **plan.request,
            "format": 1,
            "mean": list(statistics[0]),
            "std": list(statistics[1]),
            "class_names": list(rows.class_names),
            "dataset": dataset.title,
            "split": "random split" if "split" in dataset.identity() else "official split",
            "options": plan.options,
            "n_fit": len(fit),
            "held_out": {
                "accuracy": best.held_out_accuracy,
                "loss": best.held_out_loss,
                "epoch": best.epoch,
                "n_epochs": len(done.epochs),
                "n_rows": len(rows.rows) - len(fit),
            },
            "versions": {"featstore": version("rs-featstore"), "torch": torch.__version__},
        }
    )
    n_images = trainer.n_images * len(done.epochs)
    device = describe_device(plan.device)
    epochs = tuple(done.epochs)
    result = TrainedModel(path, training, epochs, n_images, done.duration_s, device, is_new=True)
    write_result(result, to_bytes(done.best, training, short_digests(digests)), command())
    state_path.unlink(missing_ok=True)
    return result


def _answer(path: Path, request: Mapping[str, Any]) -> TrainedModel:
    """Return weights that are there, if they are those of the request."""
    found = read_trained(path)
    if found is None:
        raise TrainError(f"{path} holds weights that featstore did not train. Name another --out.")
    if differing := differences(found.training.request, request):
        raise TrainError(
            f"{path} holds weights that were trained with {differing}. Name another --out, or "
            "remove the file."
        )
    return read_result(path, found.training)


def _make_trainer(
    plan: Plan,
    pixels: torch.Tensor,
    fit: torch.Tensor,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
) -> Trainer:
    rows, config = plan.rows, plan.config
    y = torch.from_numpy(rows.y)
    objective = (ClassObjective if config.network == "satcnn" else TripletObjective)(config, y, fit)
    n_bands, size = len(plan.expected.bands), plan.expected.image_size
    network = build_network(config, plan.start, n_bands, size, len(rows.class_names))
    held_out = torch.from_numpy((~rows.is_fit).nonzero()[0])
    return Trainer(
        network,
        objective,
        pixels,
        y,
        held_out,
        statistics,
        config,
        plan.learning_rate,
        plan.device,
    )


def _run(
    trainer: Trainer,
    plan: Plan,
    begun: Progressed | None,
    state_path: Path,
    progress: Progress,
) -> Progressed:
    """Train until the last epoch, or until the held-out images improve no more."""
    n_epochs = plan.config.epochs
    done = begun or Progressed([], {}, {}, torch.get_num_threads(), 0.0)
    if begun is not None:
        trainer.load_state(begun.state)
        progress.say(f"{len(begun.epochs)} of {n_epochs} epochs were trained before.")
    progress.start("Training", n_epochs - len(done.epochs), "epochs")
    try:
        while len(done.epochs) < n_epochs:
            best = best_of(done.epochs) if done.epochs else None
            if best and len(done.epochs) - best.epoch >= patience(n_epochs):
                break
            _run_epoch(trainer, done, progress)
            write_state(state_path, plan.request, done)
            progress.advance(1)
    except KeyboardInterrupt:
        if done.epochs:
            progress.say(f"{len(done.epochs)} of {n_epochs} epochs are kept in {state_path}.")
        raise
    except TrainError:
        # The same settings would fail again.
        state_path.unlink(missing_ok=True)
        raise
    finally:
        progress.stop()
    return done


def _run_epoch(trainer: Trainer, done: Progressed, progress: Progress) -> None:
    """Train one epoch, and add it to what is done."""
    started, number = time.perf_counter(), len(done.epochs) + 1
    so_far = f" (held out: {percent(done.epochs[-1].held_out_accuracy)} %)" if done.epochs else ""
    progress.start(f"Epoch {number}{so_far}", trainer.n_images, "images")
    try:
        epoch = trainer.run_epoch(number, progress)
    finally:
        progress.stop()
    if not done.epochs or epoch.rank > best_of(done.epochs).rank:
        done.best = trainer.weights()
    done.epochs.append(epoch)
    done.state = trainer.state()
    done.duration_s += time.perf_counter() - started
