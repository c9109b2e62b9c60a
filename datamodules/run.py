"""What a DataModule learns from the run that it is part of."""

import os
from collections.abc import Callable

from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus


def run_seed(seed: int | None) -> int:
    """Return the seed of a data set: its own, or that of the run (`seed_everything`), or 0 without one."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed


def ranks_of(data: LightningDataModule) -> tuple[int, int]:
    """Return the number of this process and the number of all of them: 0 and 1 without a trainer."""
    return (0, 1) if data.trainer is None else (data.trainer.global_rank, data.trainer.world_size)


def overfits(data: LightningDataModule) -> bool:
    """Whether the trainer repeats the same few batches, under `overfit_batches`."""
    trainer = data.trainer
    return trainer is not None and trainer.overfit_batches > 0  # pyright: ignore[reportAttributeAccessIssue]


def progress_of(data: LightningDataModule) -> Callable[[], tuple[int, int]] | None:
    """Return what tells a training loader the trainer's epoch and the batches done, or None outside of a fit."""
    trainer = data.trainer
    if trainer is None or trainer.state.fn != TrainerFn.FITTING or trainer.state.status != TrainerStatus.RUNNING:
        return None
    if trainer.train_dataloader is not None:
        # Not the loader that a resumed epoch goes on with: a callback's, or a later epoch's after a reload.
        return lambda: (trainer.current_epoch, 0)
    return lambda: (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready)


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Refuse a value below a minimum."""
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
