"""The loss of a LightningModule, computed beside training without leaving a trace."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torchmetrics import Metric

from steepest.diagnostics.common.batches import first_samples
from steepest.diagnostics.common.guards import BatchNormMode, undisturbed


class MeasurementUnavailableError(RuntimeError):
    """This module cannot be measured in this way; the message says why and what would help."""


@contextmanager
def probe(
    trainer: Trainer,
    pl_module: LightningModule,
    batch: Any,
    *,
    samples: int | None = None,
    batch_norm: BatchNormMode = "batch",
    autocast: bool = False,
) -> Iterator[Callable[[], Tensor]]:
    """Everything a measurement needs around its forward and backward passes.

    Inside, random state, buffers, gradients, flags and metrics may be used freely: all are restored on exit. Dropout is
    off, logging is muted, compiled modules run eagerly. Passes go through the module itself, never through the wrapper
    of DistributedDataParallel, so that they need no counterpart on other ranks.

    Args:
        trainer: The trainer, for its precision.
        pl_module: The module in training.
        batch: A batch on the module's device.
        samples: Use only the first so many samples; None uses all.
        batch_norm: "batch" (the training objective) or "running"; see
            `steepest.diagnostics.common.guards.measurement_mode`.
        autocast: Compute in the run's mixed precision; by default in the precision of the weights.

    Yields:
        A function that computes the loss of the batch, with a graph unless under `torch.no_grad`.
    """
    part = batch if samples is None else first_samples(batch, samples)
    with (
        undisturbed(pl_module, batch_norm),
        metrics_restored(pl_module),
        logging_muted(pl_module),
        _precision(trainer, autocast),
    ):
        yield lambda: diagnostic_loss(pl_module, part)


def diagnostic_loss(pl_module: LightningModule, batch: Any) -> Tensor:
    """The module's own `diagnostic_loss(batch)` if it has one, else the loss of `training_step(batch, 0)`.

    Args:
        pl_module: The module in training, inside `probe`.
        batch: A batch, or a part of one.

    Raises:
        MeasurementUnavailableError: if there is no such method and `training_step` cannot stand in for it.
    """
    own = getattr(pl_module, "diagnostic_loss", None)
    if own is not None:
        return own(batch)
    name = type(pl_module).__name__
    if not pl_module.automatic_optimization:
        raise MeasurementUnavailableError(
            f"{name} optimizes manually, so its training_step would train: give it a method diagnostic_loss(batch)"
        )
    accepted = inspect.signature(pl_module.training_step).parameters
    if "dataloader_iter" in accepted:
        raise MeasurementUnavailableError(
            f"{name}.training_step fetches its own batches: give it a method diagnostic_loss(batch)"
        )
    output: Any = pl_module.training_step(*((batch, 0) if len(accepted) > 1 else (batch,)))
    loss = output.get("loss") if isinstance(output, dict) else output
    if not isinstance(loss, Tensor):
        raise MeasurementUnavailableError(f"{name}.training_step returned no loss for the probe batch")
    return loss


@contextmanager
def logging_muted(pl_module: LightningModule) -> Iterator[None]:
    """Let `self.log` and `self.log_dict` of the module do nothing."""
    muted = ("log", "log_dict")
    before = {name: pl_module.__dict__[name] for name in muted if name in pl_module.__dict__}
    for name in muted:
        pl_module.__dict__[name] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for name in muted:
            del pl_module.__dict__[name]
        pl_module.__dict__.update(before)


@contextmanager
def metrics_restored(pl_module: LightningModule) -> Iterator[None]:
    """Give every torchmetrics metric of the module its accumulated state back on exit."""
    # States are plain attributes, not buffers, and are updated in place.
    kept = ("_update_count", "_computed", "_forward_cache")
    saved = [
        (metric, {**copy.deepcopy(metric.metric_state), **{name: metric.__dict__.get(name) for name in kept}})
        for metric in pl_module.modules()
        if isinstance(metric, Metric)
    ]
    try:
        yield
    finally:
        for metric, state in saved:
            for name, value in state.items():
                setattr(metric, name, value)


def _precision(trainer: Trainer, autocast: bool) -> AbstractContextManager:
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and not autocast:
        return torch.autocast(plugin.device, enabled=False)
    return plugin.forward_context()
