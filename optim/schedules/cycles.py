"""Schedules that rise and fall again, or fall in steps."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from steepest.optim.checks import check_number
from steepest.optim.registry import SCHEDULES
from steepest.optim.schedules.lengths import checked_floor, cosine, length, peak, progress, schedule, warmup_steps


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
    T_0 = length("T_0", T_0, total_steps)
    if isinstance(T_mult, bool) or not isinstance(T_mult, int) or T_mult < 1:
        raise ValueError(f"T_mult must be a whole number, at least 1, not {T_mult!r}")
    return schedule(
        optimizer, cosine_warm_restarts_factor, total_steps, T_0=T_0, T_mult=T_mult, floor=checked_floor(floor)
    )


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
    rise = warmup_steps(warmup, total_steps)
    return schedule(optimizer, one_cycle_factor, total_steps, warmup=rise, start=start, floor=floor)


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
    step_size = length("step_size", step_size, total_steps)
    return schedule(optimizer, step_decay_factor, total_steps, step_size=step_size, gamma=gamma)


def cosine_warm_restarts_factor(step: int, total_steps: int, T_0: int, T_mult: int, floor: float) -> float:
    """Half a cosine from 1 towards `floor` over each period: T_0, T_0 * T_mult, T_0 * T_mult^2, ... steps."""
    period = T_0
    if T_mult == 1:
        step %= period
    while step >= period:
        step -= period
        period *= T_mult
    return cosine(1.0, floor, step / period)


def one_cycle_factor(step: int, total_steps: int, warmup: int, start: float, floor: float) -> float:
    """Half a cosine from `start` up to 1 over the warm-up, then one from 1 down to `floor` at the last step."""
    top = peak(warmup)
    if step < top:
        return cosine(start, 1.0, step / top)
    return cosine(1.0, floor, progress(step, top, total_steps - 1))


def step_decay_factor(step: int, total_steps: int, step_size: int, gamma: float) -> float:
    """Gamma to the power of the number of drops so far."""
    return gamma ** (step // step_size)
