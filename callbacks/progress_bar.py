"""A progress bar that costs next to nothing per step."""

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class StepProgressBar(TQDMProgressBar):
    """Lightning's bar, redrawn at most five times a second, with the latest scalars and without a version number.

    Where the output is not a terminal, a line per epoch takes the bar's place.

    Args:
        seconds_between_updates: Least time between two redraws of the training bar.
    """

    def __init__(self, seconds_between_updates: float = 0.2) -> None:
        super().__init__(leave=False)
        self.seconds_between_updates = seconds_between_updates
        self._last_update = 0.0
        self._terminal = sys.stderr.isatty()
        self._validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draw nothing where nobody can see it."""
        super().setup(trainer, pl_module, stage)
        if not self._terminal:
            self.disable()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        """Redraw if the last time is long enough ago, and at the end of the epoch."""
        now = time.monotonic()
        last_batch = arguments[-1] + 1 == trainer.num_training_batches
        if last_batch or now - self._last_update >= self.seconds_between_updates:
            self._last_update = now
            super().on_train_batch_end(trainer, pl_module, *arguments)

    # The module computes an epoch's means after all callbacks of the epoch's end: the line is printed at the next hook.
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the last epoch's line, and draw the next epoch's bar."""
        self._print_epoch(trainer)
        super().on_train_epoch_start(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the last epoch's line, and close the bar."""
        self._print_epoch(trainer)
        super().on_train_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that this epoch has been validated, and close the bar."""
        self._validated = True
        super().on_validation_end(trainer, pl_module)

    def _print_epoch(self, trainer: Trainer) -> None:
        if self._terminal or not trainer.is_global_zero or trainer.current_epoch == 0:
            return
        # Lightning keeps what an earlier validation found.
        validated, self._validated = self._validated, False
        names = _EPOCH_METRICS if validated else _EPOCH_METRICS[:2]
        metrics = trainer.callback_metrics
        shown = [f"{name} {float(metrics[name]):.4g}" for name in names if name in metrics]
        if shown:
            print(f"epoch {trainer.current_epoch}: {', '.join(shown)}", flush=True)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The module's latest buffered scalars and what was logged for the bar."""
        metrics: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        for name, value in getattr(pl_module, "latest_scalars", {}).items():
            metrics[name] = f"{value:.3g}"
        return metrics


_EPOCH_METRICS = ("train/epoch_loss", "train/epoch_accuracy", "val/loss", "val/accuracy")
