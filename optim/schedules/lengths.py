"""Lengths and other options of schedules, checked, and the pieces that their curves are made of.

A length below 1 is a fraction of the run, from 1 on a number of steps.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from steepest.optim.checks import check_number


def schedule(optimizer: Optimizer, factor: Callable[..., float], total_steps: int, **options: Any) -> LRScheduler:
    """The scheduler of a factor function `factor(step, total_steps, **options)`.

    Raises:
        ValueError: if `total_steps` is not a whole number, at least 1.
    """
    check_total_steps(total_steps)
    # A partial of a plain function is picklable and keeps nothing in the scheduler's state but the step.
    return LambdaLR(optimizer, partial(factor, total_steps=total_steps, **options))


def check_total_steps(total_steps: int) -> None:
    """Refuse a length of the run that is not a whole number, at least 1."""
    if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
        raise ValueError(f"total_steps must be a whole number, at least 1, not {total_steps!r}")


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Length of the warm-up in steps; a fraction leaves at least one step, so that very short trial runs work."""
    check_total_steps(total_steps)
    check_number("warmup", warmup)
    if warmup < 1:
        return min(round(warmup * total_steps), total_steps - 1)
    if warmup >= total_steps:
        raise ValueError(f"warmup of {warmup:g} steps must be shorter than the run of {total_steps} steps")
    return _whole("warmup", warmup)


def length(name: str, value: float, total_steps: int) -> int:
    """A period in steps, at least 1."""
    check_total_steps(total_steps)
    check_number(name, value, include_low=False)
    if value < 1:
        return max(round(value * total_steps), 1)
    if value > total_steps:
        raise ValueError(f"{name} of {value:g} steps must fit into the run of {total_steps} steps")
    return _whole(name, value)


def checked_floor(floor: float) -> float:
    """The floor, a factor in [0, 1]."""
    check_number("floor", floor, high=1.0, include_high=True)
    return float(floor)


def peak(warmup: int) -> int:
    """Step at which the factor is 1: the last of the warm-up, or the first of all."""
    return max(warmup - 1, 0)


def progress(step: int, start: int, end: int) -> float:
    """How far `step` is on the way from `start` to `end`, in [0, 1]; after the end it stays there."""
    return min((step - start) / max(end - start, 1), 1.0) if step > start else 0.0


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _whole(name: str, value: float) -> int:
    if value != int(value):
        raise ValueError(f"{name} must be a fraction below 1 or a whole number of steps, not {value!r}")
    return int(value)
