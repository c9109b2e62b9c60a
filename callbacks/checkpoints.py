"""Best and last checkpoint of a run, from which it continues bit for bit."""

import shutil
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from steepest.common.atomic import replacing


class Checkpoints(Checkpoint):
    """Keeps `checkpoints/last.ckpt` and `checkpoints/best.ckpt` in the run folder, each written atomically.

    `last` is written at the end of every epoch and, on request, every n optimizer steps. It is only written at points
    from which Lightning resumes exactly; a step after which a validation or the end of the epoch is due waits for the
    next such point. `best` is written right after the validation that was the best so far.

    Args:
        monitor: Metric that decides which weights are best, as the module logs it.
        mode: "min" if smaller is better, "max" if larger is.
        every_n_steps: Also write `last` after every so many optimizer steps; None writes it at ends of epochs only,
            because a large model takes seconds to write.

    Raises:
        ValueError: if `every_n_steps` is below 1.
    """

    def __init__(
        self, monitor: str = "val/loss", mode: Literal["min", "max"] = "min", every_n_steps: int | None = None
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps of Checkpoints must be at least 1, got {every_n_steps}")
        self.monitor = monitor
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.best_score: float | None = None
        self.best_model_path = ""
        self.last_model_path = ""
        self._folder: Path | None = None
        self._parent_best = ""
        self._last_saved_step = -1
        self._last_due = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder, on every rank."""
        log_dir = trainer.log_dir  # asks all ranks
        self._folder = Path(log_dir) / "checkpoints" if stage == "fit" and log_dir is not None else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the best checkpoint of the run that this one resumes."""
        if self._folder is None or not self._parent_best:
            return
        target = self._folder / "best.ckpt"
        if trainer.is_global_zero and Path(self._parent_best).is_file() and not target.exists():
            with replacing(target) as partial:
                shutil.copyfile(self._parent_best, partial)
        self.best_model_path = str(target)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write `last` when it is due and the point is one to resume from."""
        if self.every_n_steps is None:
            return
        step = trainer.global_step
        if step != self._last_saved_step and step % self.every_n_steps == 0 and step > 0:
            self._last_due = True
        if not self._last_due or self._between_batches_is_not_clean(trainer, batch_idx):
            return
        self._save(trainer, "last")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `best` if this validation was the best so far."""
        if self._folder is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            known = ", ".join(sorted(trainer.callback_metrics)) or "none"
            rank_zero_warn(
                f"no best checkpoint is kept: nothing logs {self.monitor!r} (logged so far: {known}); "
                "choose one with --trainer.callbacks+=Checkpoints --trainer.callbacks.monitor NAME"
            )
            return
        value = float(trainer.strategy.reduce(score, reduce_op="mean"))  # type: ignore[arg-type]
        best = self.best_score
        if value == value and (best is None or (value < best if self.mode == "min" else value > best)):
            self.best_score = value
            self.best_model_path = str(self._folder / "best.ckpt")
            self._save(trainer, "best")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `last`: everything of the epoch has been logged."""
        self._save(trainer, "last")

    def state_dict(self) -> dict[str, Any]:
        """The best score and where its checkpoint lies."""
        return {"best_score": self.best_score, "best_model_path": self.best_model_path, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best score of the resumed run, if the metric is the same."""
        if state_dict.get("monitor") == self.monitor:
            self.best_score = state_dict["best_score"]
            self._parent_best = state_dict["best_model_path"]

    def _between_batches_is_not_clean(self, trainer: Trainer, batch_idx: int) -> bool:
        loop = trainer.fit_loop.epoch_loop
        accumulates = loop.batch_progress.current.ready % trainer.accumulate_grad_batches != 0
        if loop.batch_progress.is_last_batch or accumulates:
            return True
        interval = trainer.val_check_batch
        if not trainer.enable_validation or interval is None or interval == float("inf"):
            return False
        done = batch_idx + 1 if trainer.check_val_every_n_epoch is not None else loop.total_batch_idx + 1
        return done % int(interval) == 0

    def _save(self, trainer: Trainer, name: str) -> None:
        # Every rank takes part: strategies gather state; rank zero writes, through a temporary file.
        if self._folder is None:
            return
        if name == "last":
            self._last_due = False
            self._last_saved_step = trainer.global_step
            self.last_model_path = str(self._folder / "last.ckpt")
        # What was logged before the checkpoint must survive a kill right after it.
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self._folder / f"{name}.ckpt")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint's content to the host, tensors and plain values only.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a complete checkpoint, or holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a complete checkpoint: it was cut off, or is another kind of file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} is not a complete checkpoint ({reason[:120]})") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of a Lightning run: it has no 'state_dict'")
    return content
