"""The base of our LightningModules: optimizer, schedule and clipping, buffered scalars, validation metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from steepest.lightning_modules.optimization import build_optimizer, clipping_of
from steepest.lightning_modules.scalars import ScalarBuffer
from steepest.optim import ClippingFactory, OptimizerFactory, OptionSchedule, ScheduleFactory
from steepest.optim.classical.torch_optimizers import adamw
from steepest.optim.clipping import Clipping


class BaseModule(LightningModule):
    """Shared by all our LightningModules.

    A subclass calls `self.record(loss=..., accuracy=...)` in its training step. The values stay on the device; their
    means over the steps since the last record are written to every logger each `log_every_n_steps` optimizer steps
    under `train/<name>` and at the end of an epoch as `train/epoch_<name>`.

    Args:
        optimizer: Factory from the registry; None takes AdamW, the most forgiving choice for an unknown task.
        schedule: Learning-rate schedule from the registry, stepped after every update; None keeps the rate constant.
        clipping: Gradient clipping from the registry, applied before every update; None leaves gradients to the
            trainer's own.
        option_schedules: Schedules of momentum, weight decay or other options of the optimizer, by option.

    Attributes:
        metrics: torchmetrics by stage ("val", "test") and name. A subclass fills and updates them; at the end of an
            evaluation they are computed over all ranks, written as `<stage>/<name>` and reset. A plain dictionary: the
            metrics are not a part of the model; its summary and diagnostics should not see them.
    """

    def __init__(
        self,
        optimizer: OptimizerFactory | None = None,
        schedule: ScheduleFactory | None = None,
        clipping: ClippingFactory | None = None,
        option_schedules: Mapping[str, OptionSchedule] | None = None,
    ) -> None:
        super().__init__()
        self.metrics: dict[str, dict[str, Metric]] = {}
        self.optimizer_factory = optimizer
        self.schedule_factory = schedule
        self.clipping_factory = clipping
        self.option_schedules = option_schedules
        self._clipping: Clipping | None = None
        self.scalars = ScalarBuffer()
        self.latest_scalars: dict[str, float] = {}
        self._recorded_step = 0
        self._evaluated = False

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this plain string around every hook, 44 times a step; nn.Module's checks cost a third of the
        # framework's overhead there.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @property
    def charts(self) -> dict[str, dict[str, list[str]]]:
        """Curves of training and validation that TensorBoard shows together."""
        return {"training": {name: [f"(train|val)/{name}"] for name in self.metrics.get("val", {})}}

    @property
    def clipping(self) -> Clipping | None:
        """The clipping in use; made when it is first asked for, since there is no network before."""
        if self._clipping is None and self.clipping_factory is not None:
            self._clipping = self.clipping_factory(self)
        return self._clipping

    def configure_optimizers(self) -> Any:
        """One optimizer for all parameters and its schedules, as `build_optimizer` makes them."""
        return build_optimizer(self, self.optimizer_factory or adamw, self.schedule_factory, self.option_schedules)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients once per update, when they are unscaled, by our clipping or else by the trainer's."""
        clipping = clipping_of(self)
        if clipping is None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ValueError(
                f"{type(optimizer).__name__} unscales its gradients in its own step, after clipping: use fused=False"
            )
        clipping.clip(optimizer.param_groups)

    def lr_scheduler_step(self, scheduler: LRScheduler, metric: Any) -> None:
        """Step the schedule after every optimizer step."""
        scheduler.step()

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take a step; note when its batch has been evaluated, which some optimizers do again at other weights."""

        def evaluate() -> Any:
            loss = optimizer_closure() if optimizer_closure is not None else None
            self._evaluated = True
            return loss

        try:
            super().optimizer_step(epoch, batch_idx, optimizer, evaluate)
        finally:
            self._evaluated = False

    def record(self, **scalars: Tensor) -> None:
        """Keep scalars of this training step, to be logged as `train/<name>`; costs no host synchronisation.

        Of an optimizer that evaluates a batch several times in a step (L-BFGS, SAM) the first evaluation counts, at
        the weights before the step.
        """
        if self._evaluated:
            return
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
        self.latest_scalars = {f"train/{name}": mean for name, mean in {**means, **self.derived_scalars(means)}.items()}
        self._log(self.latest_scalars, step)

    def derived_scalars(self, means: Mapping[str, float]) -> dict[str, float]:
        """Scalars that follow from a record's means over its steps, written with them; for subclasses."""
        return {}

    def _mean_over_ranks(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="mean")  # type: ignore[return-value]

    def _log(self, scalars: dict[str, float], step: int) -> None:
        if scalars:
            for logger in self.trainer.loggers:
                logger.log_metrics(scalars, step=step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the scalars of all ranks that are not logged yet, and the clipping's state, into the checkpoint."""
        state = self.scalars.state_dict()
        # A fixed order of names, as every rank gathers the same entry at the same time.
        window = {name: self._of_all_ranks(state["window"][name]) for name in sorted(state["window"])}
        checkpoint["scalars"] = {**state, "window": window, "recorded_step": self._recorded_step}
        if self.clipping is not None:
            checkpoint["clipping"] = self.clipping.state_dict()

    def _of_all_ranks(self, values: Tensor) -> Tensor:
        trainer = self.trainer
        if trainer.world_size == 1:
            return values.unsqueeze(0)
        rows = torch.zeros(trainer.world_size, len(values), dtype=values.dtype, device=self.device)
        rows[trainer.global_rank] = values
        return trainer.strategy.reduce(rows, reduce_op="sum").cpu()  # type: ignore[union-attr]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the clipping's state and the scalars not logged yet: this rank's, or their mean if ranks differ."""
        if self.clipping is not None:
            self.clipping.load_state_dict(checkpoint.get("clipping", {}))
        state = checkpoint.get("scalars")
        if state is None:
            return
        rank, ranks = (0, 1) if self._trainer is None else (self._trainer.global_rank, self._trainer.world_size)
        window = {name: rows[rank] if len(rows) == ranks else rows.mean(0) for name, rows in state["window"].items()}
        self.scalars.load_state_dict({**state, "window": window})
        self._recorded_step = state["recorded_step"]
