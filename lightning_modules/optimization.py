"""From the chosen factories to what `configure_optimizers` returns, with the checks that need the trainer."""

import math
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.optim import Optimizer

from steepest.optim import OptimizerFactory, OptionSchedule, ScheduleFactory
from steepest.optim.clipping import Clipping
from steepest.optim.clipping.base import refuse_thresholds
from steepest.optim.core.closure import needs_closure, searches_line
from steepest.optim.core.implementation import without_fused
from steepest.optim.schedules.options import OptionScheduler


def build_optimizer(
    module: LightningModule,
    optimizer: OptimizerFactory,
    schedule: ScheduleFactory | None,
    option_schedules: Mapping[str, OptionSchedule] | None = None,
) -> Any:
    """What `configure_optimizers` returns for an optimizer factory and schedules that are stepped once per update.

    Args:
        module: The module to train; its trainer tells the number of optimizer steps.
        optimizer: Called with the module, because parameter roles cannot be read off an iterable of parameters.
        schedule: Called with the optimizer and the total number of optimizer steps; None keeps the rate constant.
        option_schedules: Schedules of other options of the parameter groups, by option.

    Raises:
        ValueError: if a schedule is given and the length of the run is not known, the trainer's options do not go
            with an optimizer that evaluates a batch several times in a step, gradients would be clipped twice, or a
            parameter group has a clipping threshold that nothing would read.
    """
    built = optimizer(module)
    _check_evaluations(module, built)
    if clipping_of(module) is None:
        refuse_thresholds(built.param_groups)
    if _refuses_fused(module):
        without_fused(built)
    schedulers = [schedule(built, total_steps(module))] if schedule is not None else []
    if option_schedules:
        schedulers.append(OptionScheduler(built, total_steps(module), option_schedules))
    return [built], [{"scheduler": scheduler, "interval": "step", "frequency": 1} for scheduler in schedulers]


def total_steps(module: LightningModule) -> int:
    """Optimizer steps of the whole run, from the trainer's limits and the length of the training data."""
    steps = module.trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise ValueError(
            "a schedule needs to know how long the run is: give --trainer.max_steps or --trainer.max_epochs "
            "(with data of known length), or leave --schedule out"
        )
    return int(steps)


def _check_evaluations(module: LightningModule, optimizer: Optimizer) -> None:
    trainer, name = module.trainer, type(optimizer).__name__
    if needs_closure(optimizer):
        schedulers = [c for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)]  # type: ignore
        if trainer.accumulate_grad_batches != 1 or any(c.going_to_accumulate_grad_batches() for c in schedulers):
            raise ValueError(
                f"{name} evaluates its batch several times in a step, so gradients cannot be accumulated over batches: "
                "leave trainer.accumulate_grad_batches at 1 and raise the batch size"
            )
        if trainer.precision == "16-mixed":
            raise ValueError(
                f"{name} evaluates its batch several times in a step, which 16-mixed does not allow: set "
                "trainer.precision to bf16-mixed or 32-true"
            )
    if searches_line(optimizer) and (trainer.gradient_clip_val or clipping_of(module)):
        raise ValueError(
            f"{name} compares losses with their gradients, which clipping would change: leave out "
            f"{'trainer.gradient_clip_val' if trainer.gradient_clip_val else '--clipping'}"
        )


def _refuses_fused(module: LightningModule) -> bool:
    # Lightning cannot clip the gradients of an optimizer that unscales them itself, as fused ones do under 16-mixed.
    trainer = module.trainer
    clips = trainer.gradient_clip_val is not None or clipping_of(module) is not None
    return clips and trainer.precision in ("16-mixed", "16-true")


def clipping_of(module: LightningModule) -> Clipping | None:
    """The clipping that a module of ours applies, or None.

    Raises:
        ValueError: if the trainer clips as well.
    """
    clipping = getattr(module, "clipping", None)
    clipping = clipping if isinstance(clipping, Clipping) else None
    if clipping is not None and module.trainer.gradient_clip_val:
        raise ValueError(
            f"--clipping and --trainer.gradient_clip_val {module.trainer.gradient_clip_val} would clip the gradients "
            "twice: give one of them"
        )
    return clipping
