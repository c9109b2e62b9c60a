"""Randomness of a training step as a function of (seed, epoch, batch, rank)."""

import os
import random
from typing import Any

import numpy
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class StepSeed(Callback):
    """Seed PyTorch, NumPy and Python at every training step from (run seed, epoch, batch, rank).

    Dropout and every other random draw of a step then depend on nothing that happened before: a run resumed at any
    step, or watched by diagnostics that draw random numbers, continues bit for bit, on every rank, with no generator
    state in the checkpoint. Each epoch's start is seeded too, which fixes the order and the workers of a plain
    `DataLoader`: a run resumed at the end of an epoch goes on bit for bit with it. Inside an epoch only loaders that
    tell their state do, and so under `max_steps`, where Lightning takes one more batch for the epoch that was finished.

    Args:
        seed: The run's seed; None takes the global one (`seed_everything`), or 0 if there is none.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._run_seed = 0
        self._first_epoch = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fix the run's seed."""
        self._run_seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self._first_epoch = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed what a data loader draws when an epoch starts, the same on every rank."""
        seed_all(mix(self._run_seed, trainer.current_epoch, -1, -1), trainer.strategy.root_device)
        if self._first_epoch:
            self._first_epoch = False
            _restart_plain_loaders(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the step."""
        seed = mix(self._run_seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        seed_all(seed, trainer.strategy.root_device)


def _restart_plain_loaders(trainer: Trainer) -> None:
    # Lightning makes the iterators of later epochs after the seed, those of the first one before it.
    loop = trainer.fit_loop
    if loop._data_fetcher is not None and loop._combined_loader is not None:
        if not any(hasattr(loader, "load_state_dict") for loader in loop._combined_loader.flattened):
            iter(loop._data_fetcher)


def mix(*values: int) -> int:
    """A seed that depends on all the values."""
    # Multiply and shift, as splitmix64 does, so that neighbouring steps have unrelated seeds.
    state = 0
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state


def seed_all(seed: int, device: torch.device) -> None:
    """Seed PyTorch on the CPU and on this device, NumPy and Python."""
    # `torch.manual_seed` would visit every backend at 0.2 ms a call; the generators in use take a microsecond.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed & 0xFFFFFFFF)
