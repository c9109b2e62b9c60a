"""The base of our LightningModules: optimizer and schedule injection, buffered scalars, validation metrics."""

import math
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from lightning_modules.scalars import ScalarBuffer
from optim import OptimizerFactory, ScheduleFactory
from optim.classics import adamw
from optim.implementation import without_fused


def build_optimizer(
    module: LightningModule, optimizer: OptimizerFactory, schedule: ScheduleFactory | None
) -> dict[str, Any]:
    """What `configure_optimizers` returns for an optimizer factory and a schedule that is stepped once per update.

    Args:
        module: The module to train; its trainer tells the number of optimizer steps.
        optimizer: Called with the module, because parameter roles cannot be read off an iterable of parameters.
        schedule: Called with the optimizer and the total number of optimizer steps; None keeps the rate constant.

    Raises:
        ValueError: if a schedule is given and the length of the run is not known.
    """
    built = optimizer(module)
    if _refuses_fused(module):
        without_fused(built)
    if schedule is None:
        return {"optimizer": built}
    scheduler = schedule(built, total_steps(module))
    return {"optimizer": built, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1}}


def total_steps(module: LightningModule) -> int:
    """Optimizer steps of the whole run, from the trainer's limits and the length of the training data."""
    steps = module.trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise ValueError(
            "a schedule needs to know how long the run is: give --trainer.max_steps or --trainer.max_epochs "
            "(with data of known length), or leave --schedule out"
        )
    return int(steps)


def _refuses_fused(module: LightningModule) -> bool:
    # Lightning cannot clip the gradients of an optimizer that unscales them itself, as fused ones do under 16-mixed.
    trainer = module.trainer
    return trainer.gradient_clip_val is not None and trainer.precision in ("16-mixed", "16-true")


class BaseModule(LightningModule):
    """Shared by all our LightningModules.

    A subclass calls `self.record(loss=..., accuracy=...)` in its training step. The values stay on the device; their
    means over the steps since the last record are written to every logger each `log_every_n_steps` optimizer steps
    under `train/<name>` and at the end of an epoch as `train/epoch_<name>`.

    Args:
        optimizer: Factory from the registry; None takes AdamW, the most forgiving choice for an unknown task.
        schedule: Learning-rate schedule from the registry, stepped after every update; None keeps the rate constant.

    Attributes:
        metrics: torchmetrics by stage ("val", "test") and name. A subclass fills and updates them; at the end of an
            evaluation they are computed over all ranks, written as `<stage>/<name>` and reset. A plain dictionary: the
            metrics are no part of the model, and neither its summary nor diagnostics should meet them.
    """

    def __init__(self, optimizer: OptimizerFactory | None = None, schedule: ScheduleFactory | None = None) -> None:
        super().__init__()
        self.metrics: dict[str, dict[str, Metric]] = {}
        self.optimizer_factory = optimizer or adamw
        self.schedule_factory = schedule
        self.scalars = ScalarBuffer()
        self.latest_scalars: dict[str, float] = {}
        self._recorded_step = 0

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this plain string around every hook, 44 times a step; nn.Module's checks cost a third of the
        # framework's overhead there.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> Any:
        """One optimizer for all parameters and its schedule, as `build_optimizer` makes them."""
        return build_optimizer(self, self.optimizer_factory, self.schedule_factory)

    def lr_scheduler_step(self, scheduler: LRScheduler, metric: Any) -> None:
        """Step the schedule after every optimizer step."""
        scheduler.step()

    def record(self, **scalars: Tensor) -> None:
        """Keep scalars of this training step, to be logged as `train/<name>`; costs no host synchronisation."""
        for name, value in scalars.items():
            self.scalars.add(name, value)

    # A record is written when the next batch starts (or the epoch ends), not when its step ends: checkpoints are saved
    # in between, hold the values, and a resumed run then writes what the uninterrupted one writes.
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Write the scalars of the steps so far when a logging step is complete."""
        step = self.trainer.global_step
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % every == 0 and step != self._recorded_step:
            self._write_scalars(step)

    def on_train_epoch_end(self) -> None:
        """Write what is left of the epoch, and the epoch's means."""
        step = self.trainer.global_step
        self._write_scalars(step)
        means = {f"train/epoch_{name}": mean for name, mean in self.scalars.finish_epoch().items()}
        self._log(means, step)
        # Known to EarlyStopping, checkpoints and the end-of-run table as well.
        for name, mean in means.items():
            self.log(name, mean, logger=False, sync_dist=True)

    def on_validation_epoch_start(self) -> None:
        """Start the validation metrics afresh, on this module's device."""
        self._reset_metrics("val")

    def on_validation_epoch_end(self) -> None:
        """Compute and write the validation metrics."""
        self._write_metrics("val")

    def on_test_epoch_start(self) -> None:
        """Start the test metrics afresh, on this module's device."""
        self._reset_metrics("test")

    def on_test_epoch_end(self) -> None:
        """Compute and write the test metrics."""
        self._write_metrics("test")

    def _reset_metrics(self, stage: str) -> None:
        for metric in self.metrics.get(stage, {}).values():
            metric.to(self.device).reset()

    def _write_metrics(self, stage: str) -> None:
        values = {f"{stage}/{name}": float(metric.compute()) for name, metric in self.metrics.get(stage, {}).items()}
        for name, value in values.items():
            self.log(name, value, logger=False, sync_dist=True)  # the same on all ranks; Lightning wants to be sure
        if not self.trainer.sanity_checking:
            self._log(values, self.trainer.global_step)

    def _write_scalars(self, step: int) -> None:
        self._recorded_step = step
        if not len(self.scalars):
            return
        means = self.scalars.flush(self._mean_over_ranks if self.trainer.world_size > 1 else None)
        self.latest_scalars = {f"train/{name}": mean for name, mean in means.items()}
        self._log(self.latest_scalars, step)

    def _mean_over_ranks(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="mean")  # type: ignore[return-value]

    def _log(self, scalars: dict[str, float], step: int) -> None:
        if scalars:
            for logger in self.trainer.loggers:
                logger.log_metrics(scalars, step=step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the scalars of all ranks that are not logged yet into the checkpoint."""
        state = self.scalars.state_dict()
        # A fixed order of names, as every rank gathers the same entry at the same time.
        window = {name: self._of_all_ranks(state["window"][name]) for name in sorted(state["window"])}
        checkpoint["scalars"] = {**state, "window": window, "recorded_step": self._recorded_step}

    def _of_all_ranks(self, values: Tensor) -> Tensor:
        trainer = self.trainer
        if trainer.world_size == 1:
            return values.unsqueeze(0)
        rows = torch.zeros(trainer.world_size, len(values), dtype=values.dtype, device=self.device)
        rows[trainer.global_rank] = values
        return trainer.strategy.reduce(rows, reduce_op="sum").cpu()  # type: ignore[union-attr]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the scalars not logged yet from the checkpoint: this rank's, or their mean if the ranks are others."""
        state = checkpoint.get("scalars")
        if state is None:
            return
        rank, ranks = (0, 1) if self._trainer is None else (self._trainer.global_rank, self._trainer.world_size)
        window = {name: rows[rank] if len(rows) == ranks else rows.mean(0) for name, rows in state["window"].items()}
        self.scalars.load_state_dict({**state, "window": window})
        self._recorded_step = state["recorded_step"]
