"""What data and modules learn from the run that they are part of; nothing here needs Lightning to be installed."""

import os
from collections.abc import Callable
from typing import Any


def run_seed(seed: int | None = None) -> int:
    """A seed of one's own, or that of the run (`seed_everything`), or 0 without one."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed


def ranks_of(trainer: Any) -> tuple[int, int]:
    """The number of this process and the number of all of them: 0 and 1 without a trainer (None)."""
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def progress_of(trainer: Any) -> Callable[[], tuple[int, int]] | None:
    """What tells a training loader, which is being made, the epoch and the batches done; None outside of a fit."""
    if trainer is None or trainer.state.fn != "fit" or trainer.state.status != "running":
        return None
    if trainer.train_dataloader is not None:
        # Not the loader that a resumed epoch goes on with: a callback's, or a later epoch's after a reload.
        return lambda: (trainer.current_epoch, 0)
    return lambda: (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready)
