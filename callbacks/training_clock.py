"""The time a run has spent on training, and on nothing else."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from steepest.callbacks.base import Diagnostic


class TrainingClock(Callback):
    """Logs `time/train_seconds`: wall seconds spent on training steps (data, forward, backward, optimizer).

    Left out are validation, the seconds that diagnostics say they took (`diagnostics/<name>_seconds`), checkpoints (and
    the fetching of one batch after a checkpoint within an epoch), and the first steps of the process, which compile,
    allocate and fill caches. So optimizers compare by it, whatever watches them. It is logged at the end of every
    validation and of the training, at the true step, as rank zero counts it. On a GPU the clock waits for the device
    only where it stops, so that the hot path stays free; a diagnostic between two stops may thereby count some of the
    steps before it as its own.

    Args:
        warm_up_steps: Optimizer steps at the start of the process, also of a resumed run, that do not count.

    Attributes:
        seconds: Seconds counted until the clock last stopped, earlier parts of a resumed run included.

    Raises:
        ValueError: if `warm_up_steps` is below 0.
    """

    def __init__(self, warm_up_steps: int = 5) -> None:
        if warm_up_steps < 0:
            raise ValueError(f"warm_up_steps of TrainingClock must be at least 0, got {warm_up_steps}")
        self.warm_up_steps = warm_up_steps
        self.seconds = 0.0
        self._training = False
        self._starts_at = 0
        self._logged_at: int | None = None
        # While the clock runs: when it was started, and what diagnostics had taken until then.
        self._started: tuple[float, float] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the warm-up to pass."""
        self._training, self._started, self._logged_at = True, None, None
        self._starts_at = trainer.global_step + self.warm_up_steps

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run: the epoch's batches are about to be fetched."""
        self._start(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Run, if a checkpoint or the warm-up has just ended."""
        self._start(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the time, and run on."""
        if self._training:
            self._log(trainer)
            self._start(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stop: the checkpoint is being written, with the seconds up to here."""
        self._stop(trainer)
        checkpoint["callbacks"][self.state_key] = self.state_dict()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop, and log the time."""
        self._stop(trainer)
        self._log(trainer)
        self._training = False

    def state_dict(self) -> dict[str, Any]:
        """The seconds until the clock last stopped."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on."""
        self.seconds = state_dict["seconds"]

    def _start(self, trainer: Trainer) -> None:
        if self._started is None and trainer.global_step >= self._starts_at:
            self._started = time.perf_counter(), _diagnostic_seconds(trainer)

    def _stop(self, trainer: Trainer) -> None:
        if self._started is None:
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)
        start, diagnosed = self._started
        self.seconds += time.perf_counter() - start - (_diagnostic_seconds(trainer) - diagnosed)
        self._started = None

    def _log(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if trainer.is_global_zero and step != self._logged_at:
            for logger in trainer.loggers:
                logger.log_metrics({"time/train_seconds": self.seconds}, step=step)
        self._logged_at = step


def _diagnostic_seconds(trainer: Trainer) -> float:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return sum(callback.total_seconds for callback in callbacks if isinstance(callback, Diagnostic))
