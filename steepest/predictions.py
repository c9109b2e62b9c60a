"""What `steepest predict` leaves behind."""

from pathlib import Path
from typing import Any

import torch

from diagnostics.artifacts import write_atomically
from steepest.trainer import Trainer


def write_predictions(trainer: Trainer, batches: Any) -> None:
    """Write what `predict_step` returned for every batch to `predictions.pt` in the run folder, one file per rank."""
    if trainer.log_dir is None:
        return
    rank = f"_rank{trainer.global_rank}" if trainer.world_size > 1 else ""
    target = Path(trainer.log_dir) / f"predictions{rank}.pt"
    write_atomically(target, lambda temporary: torch.save(batches, temporary))
    if trainer.is_global_zero:
        print(f"predictions: {target}")
