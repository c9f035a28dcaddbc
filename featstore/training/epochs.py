"""Train a network epoch by epoch, so that each epoch gives the same bits wherever it begins."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from featstore.config import TrainConfig
from featstore.errors import TrainError
from featstore.models.devices import has_fast_bf16, make_deterministic
from featstore.models.freed_memory import keep_freed_memory
from featstore.progress import Progress
from featstore.training.images import N_TURNS, augment
from featstore.training.objectives import Objective

WEIGHT_DECAY = 0.01
"""AdamW's: Loshchilov & Hutter 2019, arXiv:1711.05101."""


GPU_SHARE = 0.5
"""Share of a GPU's free memory that the images may take."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to."""

    epoch: int
    train_loss: float
    held_out_loss: float
    held_out_accuracy: float
    learning_rate: float
    """At the beginning of the epoch."""

    @property
    def rank(self) -> tuple[float, float]:
        """The higher, the better: accuracy, and among equals the lower loss."""
        return self.held_out_accuracy, -self.held_out_loss


class Trainer:
    """A network, its optimizer, and the images that it learns from.

    `pixels` are (n, n_bands, side, side) uint8, `y` (n,) their classes, `held_out` the positions of
    the images that are never learned from; `mean` and `std` are those of each band, from 0 to 1.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        pixels: torch.Tensor,
        y: torch.Tensor,
        held_out: torch.Tensor,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        config: TrainConfig,
        learning_rate: float,
        device: torch.device,
    ) -> None:
        self.device, self.objective, self._config = device, objective, config
        self.network = network.to(device)
        self._pixels, self._y, self._held_out = _on_gpu(pixels, device), y, held_out
        mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in statistics)
        self._scale, self._shift = 1 / (255 * std), -mean / std
        n_steps = len(objective.batches(self._generator(0)))
        self.n_images = n_steps * objective.batch_size
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY
        )
        self._scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimizer, config.epochs * n_steps
        )
        self._half = device.type == "cuda" and has_fast_bf16(device)

    def _seed(self, epoch: int) -> int:
        """Return the seed of an epoch, which then depends on no earlier one."""
        sequence = np.random.SeedSequence([self._config.random_state, epoch])
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed(epoch))

    def run_epoch(self, epoch: int, progress: Progress) -> Epoch:
        """Learn from each image once, and score the held-out ones."""
        generator = self._generator(epoch)
        rate = float(self._scheduler.get_last_lr()[0])
        self.network.train()
        # Dropout draws from torch's own generators.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self._seed(epoch))
            losses = []
            for at in self.objective.batches(generator):
                turns = torch.randint(N_TURNS, (len(at),), generator=generator)
                losses.append(self._step(at, turns))
                progress.advance(len(at))
        loss = float(torch.stack(losses).double().mean())
        if not math.isfinite(loss):
            raise TrainError(
                f"The loss is {loss} in epoch {epoch}: the learning rate is too high. Use a lower "
                "--learning-rate."
            )
        accuracy, held_out_loss = self.objective.score(self._outputs, self._held_out)
        if not math.isfinite(held_out_loss):
            raise TrainError(
                f"The loss of the held-out images is {held_out_loss} in epoch {epoch}. Use a lower "
                "--learning-rate."
            )
        return Epoch(epoch, loss, held_out_loss, accuracy, rate)

    def _step(self, at: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        images = augment(self._pixels[at.to(self._pixels.device)].to(self.device), turns)
        with self._precision():
            outputs = self.network(self._normalized(images))
        loss = self.objective.loss(outputs.float(), self._y[at].to(self.device))
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._scheduler.step()
        return loss.detach()

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def _normalized(self, images: torch.Tensor) -> torch.Tensor:
        x = images.float() * self._scale + self._shift
        return x.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def _outputs(self, positions: torch.Tensor) -> torch.Tensor:
        self.network.eval()
        found = []
        for at in torch.split(positions, self.objective.batch_size):
            images = self._pixels[at.to(self._pixels.device)].to(self.device)
            with self._precision():
                found.append(self.network(self._normalized(images)).float().cpu())
        return torch.cat(found)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the network's tensors."""
        state = self.network.state_dict()
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def state(self) -> dict[str, Any]:
        """Return what the next epoch depends on."""
        return {
            "network": self.weights(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])


def _on_gpu(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the images on the GPU, if they fit beside the network."""
    if device.type != "cuda":
        return pixels
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.to(device) if pixels.nbytes < GPU_SHARE * free else pixels


@contextmanager
def deterministic(device: torch.device, n_threads: int | None = None) -> Iterator[None]:
    """Let the same training give the same bits meanwhile; on a CPU with this many threads."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    make_deterministic(device)
    keep_freed_memory()
    if device.type == "cuda":
        # cuBLAS reads it when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        # Some operations on GPUs have no deterministic form: torch would refuse them.
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*deterministic", UserWarning)
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])
