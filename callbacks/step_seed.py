"""Randomness of a training step as a function of (seed, epoch, batch, rank)."""

from typing import Any, ClassVar

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from steepest.callbacks.compat import combined_loader, fetcher
from steepest.common.run import run_seed
from steepest.common.seeds import mix, seed_all


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

    changes_training: ClassVar[bool] = True
    """All other callbacks leave weights and random numbers alone, to the bit; tests hold them to it."""

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._run_seed = 0
        self._first_epoch = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fix the run's seed."""
        self._run_seed = run_seed(self.seed)
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
    batches, loader = fetcher(trainer), combined_loader(trainer)
    if batches is not None and loader is not None:
        if not any(hasattr(part, "load_state_dict") for part in loader.flattened):
            iter(batches)
