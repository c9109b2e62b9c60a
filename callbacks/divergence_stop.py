"""Ends a run whose training loss has left all bounds, and writes down when it did."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from steepest.diagnostics.common.artifacts import save_json
from steepest.diagnostics.common.batches import first_divergence


class DivergenceStop(Callback):
    """Finds the first optimizer step at which the training loss was not finite or too large, and ends the training.

    The losses wait on the device and are looked at every few steps, so that no step waits for them; the training ends
    there, as one that is complete: with its validation, its test and its figures. `divergence.json` in the run folder
    tells step, loss (null if it was not finite) and bound, also if the divergence made another part of the run fail.
    The loss of a single micro-batch or rank is enough. Of an optimizer that evaluates a batch several times in a step
    (L-BFGS, SAM) the first loss counts, of several losses under manual optimization as well. A training that does not
    diverge is the same to the bit with and without it.

    Args:
        bound: A training loss above it is divergence; None takes only one that is not finite.
        every_n_steps: Look at the losses after every so many optimizer steps, at least 1; all ranks then agree.

    Attributes:
        diverged_at: Optimizer step, counted from 1, whose loss was the first to diverge, or None.
        loss: The loss at that step.

    Raises:
        ValueError: if `bound` is not a number, or `every_n_steps` below 1.
    """

    def __init__(self, bound: float | None = None, every_n_steps: int = 20) -> None:
        if bound is not None and not math.isfinite(bound):
            raise ValueError(f"bound of DivergenceStop must be a finite number, or none, got {bound}")
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps of DivergenceStop must be at least 1, got {every_n_steps}")
        self.bound = bound
        self.every_n_steps = every_n_steps
        self.diverged_at: int | None = None
        self.loss = 0.0
        self._run_folder: Path | None = None
        self._steps: list[int] = []
        self._losses: list[Tensor] = []
        self._checked_at = 0
        self._evaluated = False
        self._written = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder; all ranks take part in that."""
        folder = trainer.log_dir if trainer.loggers else None
        self._run_folder = None if folder is None else Path(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the losses of a training before this one."""
        self._steps, self._losses, self._written = [], [], False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Expect the first loss of the batch."""
        self._evaluated = False

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the first loss of the batch, on the device."""
        if self._evaluated:
            return
        self._evaluated = True
        self._steps.append(trainer.global_step + 1)
        self._losses.append(_as_logged(trainer, pl_module, loss.detach()))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the losses when it is time to."""
        # Several optimizers under manual optimization take several steps in a batch.
        if trainer.global_step // self.every_n_steps > self._checked_at // self.every_n_steps:
            self._check(trainer)
            if self.diverged_at is not None:
                self._write(trainer)
                trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the losses that are left."""
        self._check(trainer)
        self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Look whether a divergence came before the failure; other ranks may be gone, so this rank's losses tell."""
        with suppress(RuntimeError):  # a broken device cannot tell, and its own error is on its way
            self._take(first_divergence(self._steps, self._losses, self.bound))
            self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at the losses of all ranks, as only rank zero's state is kept."""
        self._check(trainer)
        checkpoint["callbacks"][self.state_key] = self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """What was found, and when the losses were looked at."""
        return {"diverged_at": self.diverged_at, "loss": self.loss, "checked_at": self._checked_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.diverged_at, self.loss = state_dict["diverged_at"], state_dict["loss"]
        self._checked_at = state_dict["checked_at"]

    def _check(self, trainer: Trainer) -> None:
        # Every rank comes here at the same steps, and knows the same of earlier ones.
        found = first_divergence(self._steps, self._losses, self.bound)
        if self.diverged_at is None and trainer.world_size > 1:
            found = _agreed(trainer, found)
        self._take(found)
        self._steps, self._losses, self._checked_at = [], [], trainer.global_step

    def _take(self, found: tuple[int, float] | None) -> None:
        if self.diverged_at is None and found is not None:
            self.diverged_at, self.loss = found

    def _write(self, trainer: Trainer) -> None:
        if self.diverged_at is None or self._written:
            return
        self._written = True
        above = "" if self.bound is None else f", bound {self.bound:g}"
        rank_zero_warn(f"DivergenceStop: diverged at step {self.diverged_at} (training loss {self.loss:.4g}{above})")
        if trainer.is_global_zero and self._run_folder is not None:
            content = {"step": self.diverged_at, "loss": self.loss, "bound": self.bound}
            save_json(content, self._run_folder / "divergence.json")


def _as_logged(trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> Tensor:
    """The loss before Lightning divided it among micro-batches and a loss scaler multiplied it."""
    if pl_module.automatic_optimization and trainer.accumulate_grad_batches > 1:
        loss = loss * trainer.accumulate_grad_batches
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return loss if scaler is None else loss / scaler.scale(torch.ones_like(loss))


def _agreed(trainer: Trainer, found: tuple[int, float] | None) -> tuple[int, float] | None:
    """The earliest divergence of any rank, with the mean loss of the ranks that diverged then."""
    device = trainer.strategy.root_device
    never = torch.iinfo(torch.int64).max
    step, loss = found if found is not None else (never, 0.0)
    earliest = trainer.strategy.reduce(torch.tensor([-step], device=device), reduce_op="max")
    if -int(earliest) == never:
        return None
    own = [loss, 1.0] if step == -int(earliest) else [0.0, 0.0]
    total, ranks = trainer.strategy.reduce(torch.tensor(own, device=device), reduce_op="sum").tolist()  # type: ignore
    return -int(earliest), total / ranks
