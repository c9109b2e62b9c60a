"""Schedules that warm up linearly and then fall, or stay."""

import math
from typing import Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from steepest.optim.checks import check_number
from steepest.optim.registry import SCHEDULES
from steepest.optim.schedules.lengths import checked_floor, cosine, length, peak, progress, schedule, warmup_steps

Shape = Literal["linear", "cosine", "sqrt"]


@SCHEDULES.register
def constant(optimizer: Optimizer, total_steps: int, warmup: float = 0.0) -> LRScheduler:
    """Constant learning rate, after an optional linear warm-up.

    Args:
        optimizer: Its groups' learning rates are the reference: factor 1.
        total_steps: Length of the run in steps, at least 1.
        warmup: Length of the warm-up, less than the run: a fraction below 1, else steps.

    Returns:
        A scheduler to be stepped after each optimizer step.

    Raises:
        ValueError: if a length does not fit.
    """
    return schedule(optimizer, constant_factor, total_steps, warmup=warmup_steps(warmup, total_steps))


@SCHEDULES.register
def linear(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, floor: float = 0.0) -> LRScheduler:
    """Linear warm-up, then linear decay to the floor, reached at the last step.

    Args:
        optimizer: Its groups' learning rates are the peak: factor 1.
        total_steps: Length of the run in steps, at least 1.
        warmup: Length of the warm-up, less than the run: a fraction below 1, else steps.
        floor: Factor at the last step, in [0, 1].

    Returns:
        A scheduler to be stepped after each optimizer step.

    Raises:
        ValueError: if a length does not fit or the floor is out of range.
    """
    options = {"warmup": warmup_steps(warmup, total_steps), "floor": checked_floor(floor)}
    return schedule(optimizer, linear_factor, total_steps, **options)


@SCHEDULES.register
def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, floor: float = 0.0) -> LRScheduler:
    """Linear warm-up, then half a cosine down to the floor, reached at the last step.

    Args:
        optimizer: Its groups' learning rates are the peak: factor 1.
        total_steps: Length of the run in steps, at least 1.
        warmup: Length of the warm-up, less than the run: a fraction below 1, else steps.
        floor: Factor at the last step, in [0, 1].

    Returns:
        A scheduler to be stepped after each optimizer step.

    Raises:
        ValueError: if a length does not fit or the floor is out of range.
    """
    options = {"warmup": warmup_steps(warmup, total_steps), "floor": checked_floor(floor)}
    return schedule(optimizer, warmup_cosine_factor, total_steps, **options)


@SCHEDULES.register
def polynomial(
    optimizer: Optimizer, total_steps: int, power: float = 2.0, warmup: float = 0.05, floor: float = 0.0
) -> LRScheduler:
    """Linear warm-up, then a power of the remaining share of the run, down to the floor at the last step.

    Args:
        optimizer: Its groups' learning rates are the peak: factor 1.
        total_steps: Length of the run in steps, at least 1.
        power: Exponent of the decay, above 0. 1 is `linear`; the default spends more of the run at small rates. Image
            segmentation uses 0.9 (arXiv 1606.00915).
        warmup: Length of the warm-up, less than the run: a fraction below 1, else steps.
        floor: Factor at the last step, in [0, 1].

    Returns:
        A scheduler to be stepped after each optimizer step.

    Raises:
        ValueError: if a length does not fit or another option is out of range.
    """
    check_number("power", power, include_low=False)
    options = {"warmup": warmup_steps(warmup, total_steps), "floor": checked_floor(floor)}
    return schedule(optimizer, polynomial_factor, total_steps, power=power, **options)


@SCHEDULES.register
def inverse_sqrt(optimizer: Optimizer, total_steps: int, warmup: float = 0.05) -> LRScheduler:
    """Linear warm-up, then decay with the inverse square root of the step (arXiv 1706.03762).

    It has no end: a run may be prolonged without changing what went before, if the warm-up is given in steps.

    Args:
        optimizer: Its groups' learning rates are the peak: factor 1, at the end of the warm-up.
        total_steps: Length of the run in steps, at least 1. It serves to turn a fraction into steps.
        warmup: Length of the warm-up, less than the run: a fraction below 1, else steps. A long one also makes the
            decay slow: four times as many steps halve the rate.

    Returns:
        A scheduler to be stepped after each optimizer step.

    Raises:
        ValueError: if a length does not fit.
    """
    return schedule(optimizer, inverse_sqrt_factor, total_steps, warmup=warmup_steps(warmup, total_steps))


@SCHEDULES.register
def warmup_stable_decay(
    optimizer: Optimizer,
    total_steps: int,
    warmup: float = 0.05,
    decay: float = 0.2,
    floor: float = 0.0,
    shape: Shape = "linear",
) -> LRScheduler:
    """Linear warm-up, a constant stretch, and a decay at the end (arXiv 2404.06395, 2405.18392).

    Args:
        optimizer: Its groups' learning rates are the peak: factor 1.
        total_steps: Length of the run in steps, at least 1.
        warmup: Length of the warm-up, less than the run: a fraction below 1, else steps.
        decay: Length of the decay, at most what the warm-up leaves: a fraction below 1, else steps. The default is
            what arXiv 2405.18392 finds enough to match a cosine.
        floor: Factor at the last step, in [0, 1].
        shape: Of the decay: "linear", "cosine" (half a cosine) or "sqrt" (1 minus the root of the progress, which falls
            faster at first).

    Returns:
        A scheduler to be stepped after each optimizer step.

    Raises:
        ValueError: if a length does not fit or another option is out of range.
    """
    if shape not in get_args(Shape):
        raise ValueError(f"shape must be one of {', '.join(get_args(Shape))}, not {shape!r}")
    rise, fall = warmup_steps(warmup, total_steps), length("decay", decay, total_steps)
    # Two fractions that fill the run may exceed it by their rounding.
    if rise + fall > total_steps and not (warmup < 1 and decay < 1 and warmup + decay <= 1):
        raise ValueError(f"warmup of {rise} and decay of {fall} steps must fit into the run of {total_steps} steps")
    options = {"warmup": rise, "decay": min(fall, total_steps - rise), "floor": checked_floor(floor), "shape": shape}
    return schedule(optimizer, warmup_stable_decay_factor, total_steps, **options)


def constant_factor(step: int, total_steps: int, warmup: int) -> float:
    """1, after `warmup` steps that rise in equal parts; the first is 1 / warmup, not 0."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def linear_factor(step: int, total_steps: int, warmup: int, floor: float) -> float:
    """Warm-up, then a straight line from 1 to `floor` at the last step."""
    return polynomial_factor(step, total_steps, 1.0, warmup, floor)


def warmup_cosine_factor(step: int, total_steps: int, warmup: int, floor: float) -> float:
    """Warm-up, then half a cosine from 1 to `floor` at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return cosine(1.0, floor, progress(step, peak(warmup), total_steps - 1))


def polynomial_factor(step: int, total_steps: int, power: float, warmup: int, floor: float) -> float:
    """Warm-up, then floor + (1 - floor) * (1 - progress)^power, the progress being 1 at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1.0 - floor) * (1.0 - progress(step, peak(warmup), total_steps - 1)) ** power


def inverse_sqrt_factor(step: int, total_steps: int, warmup: int) -> float:
    """Warm-up, then the root of warmup / (step + 1); without a warm-up, of 1 / (step + 1)."""
    if step < warmup:
        return (step + 1) / warmup
    return math.sqrt(max(warmup, 1) / (step + 1))


def warmup_stable_decay_factor(
    step: int, total_steps: int, warmup: int, decay: int, floor: float, shape: Shape
) -> float:
    """Warm-up, then 1, then `decay` steps down to `floor` at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    done = progress(step, max(total_steps - 1 - decay, peak(warmup)), total_steps - 1)
    if shape == "cosine":
        return cosine(1.0, floor, done)
    return 1.0 - (1.0 - floor) * (math.sqrt(done) if shape == "sqrt" else done)
