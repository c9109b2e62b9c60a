"""Learning-rate schedules: pure functions of the step, each a multiple of the group's own learning rate.

A schedule `linear` has a factor function `linear_factor(step, total_steps, ...)`, and `LambdaLR` multiplies each
group's learning rate by it. Since the factor depends on the step alone, a resumed run needs only the number of the
step, any schedule can be drawn without training (`factors`), and it can move other options than the learning rate
(optim/schedules/options.py).

Steps count from 0, so the last one is `total_steps - 1`. A length below 1 is a fraction of the run, from 1 on a number
of steps.
"""

from collections.abc import Callable

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from steepest.optim.schedules.cycles import (
    cosine_warm_restarts,
    cosine_warm_restarts_factor,
    one_cycle,
    one_cycle_factor,
    step_decay,
    step_decay_factor,
)
from steepest.optim.schedules.decays import (
    constant,
    constant_factor,
    inverse_sqrt,
    inverse_sqrt_factor,
    linear,
    linear_factor,
    polynomial,
    polynomial_factor,
    warmup_cosine,
    warmup_cosine_factor,
    warmup_stable_decay,
    warmup_stable_decay_factor,
)
from steepest.optim.schedules.windows import autosgm_window, autosgm_window_factor


def factors(schedule: LRScheduler, steps: int) -> list[float]:
    """Values of a schedule at steps 0 to `steps - 1`, without touching its optimizer: to draw it.

    Raises:
        ValueError: if the schedule is not a function of the step alone.
    """
    factor = _factor(schedule)
    return [float(factor(step)) for step in range(steps)]


def factor_function(schedule: Callable[[Optimizer, int], LRScheduler], total_steps: int) -> Callable[[int], float]:
    """The factor that a schedule multiplies learning rates by, as a function of the step.

    Args:
        schedule: A schedule with its options set: `functools.partial(linear, floor=0.1)`.
        total_steps: Length of the run in steps, at least 1.

    Raises:
        ValueError: if the schedule refuses its options or is not a function of the step alone.
    """
    return _factor(schedule(SGD([torch.zeros(1)], lr=1.0), total_steps))


def _factor(schedule: LRScheduler) -> Callable[[int], float]:
    if not isinstance(schedule, LambdaLR):
        raise ValueError(f"only schedules that are a LambdaLR have a factor, a {type(schedule).__name__} does not")
    return schedule.lr_lambdas[0]


__all__ = [
    "autosgm_window",
    "autosgm_window_factor",
    "constant",
    "constant_factor",
    "cosine_warm_restarts",
    "cosine_warm_restarts_factor",
    "factor_function",
    "factors",
    "inverse_sqrt",
    "inverse_sqrt_factor",
    "linear",
    "linear_factor",
    "one_cycle",
    "one_cycle_factor",
    "polynomial",
    "polynomial_factor",
    "step_decay",
    "step_decay_factor",
    "warmup_cosine",
    "warmup_cosine_factor",
    "warmup_stable_decay",
    "warmup_stable_decay_factor",
]
