"""Learning-rate schedules: pure functions of the step, each a multiple of the group's own learning rate.

A schedule `linear` has a factor function `linear_factor(step, total_steps, ...)`, and `LambdaLR` multiplies each
group's learning rate by it. Since the factor depends on the step alone, a resumed run needs only the number of the
step, and any schedule can be drawn without training (`factors`).

Steps count from 0, so the last one is `total_steps - 1`. A length below 1 is a fraction of the run, from 1 on a number
of steps.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from optim.checks import check_number
from optim.registry import SCHEDULES


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
    return _schedule(optimizer, constant_factor, total_steps, warmup=_warmup_steps(warmup, total_steps))


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
    warmup_steps = _warmup_steps(warmup, total_steps)
    return _schedule(optimizer, linear_factor, total_steps, warmup=warmup_steps, floor=_floor(floor))


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
    warmup_steps = _warmup_steps(warmup, total_steps)
    return _schedule(optimizer, warmup_cosine_factor, total_steps, warmup=warmup_steps, floor=_floor(floor))


@SCHEDULES.register
def cosine_warm_restarts(
    optimizer: Optimizer, total_steps: int, T_0: float = 0.25, T_mult: int = 1, floor: float = 0.0
) -> LRScheduler:
    """Cosine decay that starts again at full height (SGDR, arXiv 1608.03983).

    Args:
        optimizer: Its groups' learning rates are the peak: factor 1.
        total_steps: Length of the run in steps, at least 1. It serves to turn a fraction into steps.
        T_0: Length of the first period, at most the run: a fraction below 1, else steps. The default gives four
            periods, so that the run ends at the end of one.
        T_mult: Each period is this many times as long as the one before, a whole number, at least 1.
        floor: Factor that each period falls to, in [0, 1]; as in the paper the step that would reach it is already
            the restart.

    Returns:
        A scheduler to be stepped after each optimizer step.

    Raises:
        ValueError: if a length does not fit or another option is out of range.
    """
    T_0 = _length("T_0", T_0, total_steps)
    if isinstance(T_mult, bool) or not isinstance(T_mult, int) or T_mult < 1:
        raise ValueError(f"T_mult must be a whole number, at least 1, not {T_mult!r}")
    return _schedule(optimizer, cosine_warm_restarts_factor, total_steps, T_0=T_0, T_mult=T_mult, floor=_floor(floor))


@SCHEDULES.register
def one_cycle(
    optimizer: Optimizer,
    total_steps: int,
    warmup: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> LRScheduler:
    """One-cycle policy (arXiv 1708.07120): cosine up to the peak, cosine down to almost nothing.

    The factors are those of `torch.optim.lr_scheduler.OneCycleLR` with `max_lr` the groups' learning rates and
    `cycle_momentum=False`: only the learning rate moves.

    Args:
        optimizer: Its groups' learning rates are the peak: factor 1.
        total_steps: Length of the run in steps, at least 1.
        warmup: Length of the rise, less than the run: a fraction below 1, else steps.
        div_factor: The first factor is 1 / div_factor; at least 1.
        final_div_factor: The last factor is 1 / (div_factor * final_div_factor); at least 1.

    Returns:
        A scheduler to be stepped after each optimizer step.

    Raises:
        ValueError: if a length does not fit or another option is out of range.
    """
    check_number("div_factor", div_factor, low=1.0)
    check_number("final_div_factor", final_div_factor, low=1.0)
    start, floor = 1 / div_factor, 1 / (div_factor * final_div_factor)
    warmup_steps = _warmup_steps(warmup, total_steps)
    return _schedule(optimizer, one_cycle_factor, total_steps, warmup=warmup_steps, start=start, floor=floor)


@SCHEDULES.register
def step_decay(optimizer: Optimizer, total_steps: int, step_size: float = 0.3, gamma: float = 0.1) -> LRScheduler:
    """Constant, multiplied by gamma after every `step_size` steps.

    Args:
        optimizer: Its groups' learning rates are the start: factor 1.
        total_steps: Length of the run in steps, at least 1. It serves to turn a fraction into steps.
        step_size: Steps between two drops, at most the run: a fraction below 1, else steps. The default is the usual
            recipe for image classification: drops at 30, 60 and 90 % of the run.
        gamma: What each drop multiplies the learning rate by, in (0, 1].

    Returns:
        A scheduler to be stepped after each optimizer step.

    Raises:
        ValueError: if a length does not fit or another option is out of range.
    """
    check_number("gamma", gamma, high=1.0, include_low=False, include_high=True)
    step_size = _length("step_size", step_size, total_steps)
    return _schedule(optimizer, step_decay_factor, total_steps, step_size=step_size, gamma=gamma)


def constant_factor(step: int, total_steps: int, warmup: int) -> float:
    """1, after `warmup` steps that rise in equal parts; the first is 1 / warmup, not 0."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def linear_factor(step: int, total_steps: int, warmup: int, floor: float) -> float:
    """Warm-up, then a straight line from 1 to `floor` at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 1.0 - (1.0 - floor) * _progress(step, _peak(warmup), total_steps - 1)


def warmup_cosine_factor(step: int, total_steps: int, warmup: int, floor: float) -> float:
    """Warm-up, then half a cosine from 1 to `floor` at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return _cosine(1.0, floor, _progress(step, _peak(warmup), total_steps - 1))


def cosine_warm_restarts_factor(step: int, total_steps: int, T_0: int, T_mult: int, floor: float) -> float:
    """Half a cosine from 1 towards `floor` over each period: T_0, T_0 * T_mult, T_0 * T_mult^2, ... steps."""
    period = T_0
    if T_mult == 1:
        step %= period
    while step >= period:
        step -= period
        period *= T_mult
    return _cosine(1.0, floor, step / period)


def one_cycle_factor(step: int, total_steps: int, warmup: int, start: float, floor: float) -> float:
    """Half a cosine from `start` up to 1 over the warm-up, then one from 1 down to `floor` at the last step."""
    peak = _peak(warmup)
    if step < peak:
        return _cosine(start, 1.0, step / peak)
    return _cosine(1.0, floor, _progress(step, peak, total_steps - 1))


def step_decay_factor(step: int, total_steps: int, step_size: int, gamma: float) -> float:
    """Gamma to the power of the number of drops so far."""
    return gamma ** (step // step_size)


def factors(schedule: LRScheduler, steps: int) -> list[float]:
    """Values of a schedule of this module at steps 0 to `steps - 1`, without touching its optimizer: to draw it."""
    if not isinstance(schedule, LambdaLR):
        raise ValueError(f"only schedules of optim/schedules.py can be drawn, not a {type(schedule).__name__}")
    return [float(schedule.lr_lambdas[0](step)) for step in range(steps)]


def _schedule(optimizer: Optimizer, factor: Callable[..., float], total_steps: int, **options: Any) -> LRScheduler:
    _check_total_steps(total_steps)
    # A partial of a plain function is picklable and keeps nothing in the scheduler's state but the step.
    return LambdaLR(optimizer, partial(factor, total_steps=total_steps, **options))


def _peak(warmup: int) -> int:
    """Step at which the factor is 1: the last of the warm-up, or the first of all."""
    return max(warmup - 1, 0)


def _progress(step: int, start: int, end: int) -> float:
    """How far `step` is on the way from `start` to `end`, in [0, 1]; after the end it stays there."""
    return min((step - start) / max(end - start, 1), 1.0) if step > start else 0.0


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _check_total_steps(total_steps: int) -> None:
    if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
        raise ValueError(f"total_steps must be a whole number, at least 1, not {total_steps!r}")


def _warmup_steps(warmup: float, total_steps: int) -> int:
    """Length of the warm-up in steps; a fraction leaves at least one step, so that very short trial runs work."""
    _check_total_steps(total_steps)
    check_number("warmup", warmup)
    if warmup < 1:
        return min(round(warmup * total_steps), total_steps - 1)
    if warmup >= total_steps:
        raise ValueError(f"warmup of {warmup:g} steps must be shorter than the run of {total_steps} steps")
    return _whole("warmup", warmup)


def _length(name: str, value: float, total_steps: int) -> int:
    """A period in steps, at least 1."""
    _check_total_steps(total_steps)
    check_number(name, value, include_low=False)
    if value < 1:
        return max(round(value * total_steps), 1)
    if value > total_steps:
        raise ValueError(f"{name} of {value:g} steps must fit into the run of {total_steps} steps")
    return _whole(name, value)


def _whole(name: str, value: float) -> int:
    if value != int(value):
        raise ValueError(f"{name} must be a fraction below 1 or a whole number of steps, not {value!r}")
    return int(value)


def _floor(floor: float) -> float:
    check_number("floor", floor, high=1.0, include_high=True)
    return float(floor)
