"""AutoSGM's windows, for every optimizer."""

import math
from typing import Any, Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from steepest.optim.autosgm.windows import SEQUENCES, UNITS, WINDOWS, window
from steepest.optim.checks import check_number
from steepest.optim.registry import SCHEDULES
from steepest.optim.schedules.lengths import check_total_steps, checked_floor, length, schedule

Shape = Literal["raised_cosine", "polynomial", "beta_exponential", "simple_polynomial", "logistic", "late_logistic"]
Sequence = Literal["ordered", "kronecker"]
Unit = Literal["step", "epoch", "restart"]

ORDERS: dict[str, dict[str, Any]] = {
    "raised_cosine": {"low": 1.0},
    "polynomial": {"low": 1.0},
    "beta_exponential": {"high": 1.0, "include_low": False},
    "simple_polynomial": {"low": 1.0, "include_low": False},
    "logistic": {"include_low": False},
    "late_logistic": {"include_low": False},
}


@SCHEDULES.register
def autosgm_window(
    optimizer: Optimizer,
    total_steps: int,
    shape: Shape = "raised_cosine",
    order: float = 1.0,
    floor: float = 0.0,
    flat: float = 0.0,
    full: bool = False,
    sequence: Sequence = "ordered",
    unit: Unit = "step",
    epoch: float | None = None,
) -> LRScheduler:
    """The windows of AutoSGM: a shape that falls from 1, with a floor, a flat top, and a rise before it if wanted.

    As in AutoSGM the position of step t of n is (t - 1) / n, so that the end of the window would be reached one step
    after the last.

    Args:
        optimizer: Its groups' learning rates are the top: factor 1.
        total_steps: Length of the run in steps, at least 1.
        shape: "raised_cosine" cos(pi f / 2)^order, "polynomial" (1 - f)^order, "beta_exponential"
            (order^f - order) / (1 - order), "simple_polynomial" (1 - f^order)^2, "logistic" with its inflection in the
            middle, "late_logistic" with it at 7/8 (this one begins somewhat above 1).
        order: Order of the shape: at least 1 for "raised_cosine" and "polynomial", in (0, 1) for "beta_exponential",
            above 1 for "simple_polynomial", above 0 for the logistic ones. 1 is the plain raised cosine.
        floor: Smallest factor, in [0, 1].
        flat: Part of the positions in the window that stay at the top, in [0, 1).
        full: Rise along the mirrored shape in the first half of the window; the first factor is then the floor.
        sequence: Order of the positions: "ordered", or "kronecker", positions of the golden-ratio sequence with their
            factors from the largest down.
        unit: "step" is one window over the run, "epoch" the same in stairs of an epoch, "restart" a window over each
            epoch.
        epoch: Length of an epoch, for the units "epoch" and "restart": a fraction of the run below 1, else steps.

    Returns:
        A scheduler to be stepped after each optimizer step.

    Raises:
        ValueError: if an option is out of range, or an epoch is given without a unit that needs it, or left out.
    """
    check_total_steps(total_steps)
    for name, value, kind in (("shape", shape, Shape), ("sequence", sequence, Sequence), ("unit", unit, Unit)):
        if value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, not {value!r}")
    check_number(f"order of {shape}", order, **ORDERS[shape])
    check_number("flat", flat, high=1.0)
    if unit == "step" and epoch is not None:
        raise ValueError(f"epoch {epoch!r} is for the units 'epoch' and 'restart', not for 'step'")
    if unit != "step" and epoch is None:
        raise ValueError(f"unit {unit!r} needs the length of an epoch: give epoch, a fraction of the run or steps")
    steps = total_steps if epoch is None else length("epoch", epoch, total_steps)
    options = {
        "rcm": WINDOWS.index(shape),
        "inseq": SEQUENCES.index(sequence),
        "x": checked_floor(floor),
        "n": order,
        "m": 0 if full else 1,
        "tau": 1 if unit == "restart" else math.ceil(total_steps / steps),
        "spe": steps,
        "cfact": UNITS.index(unit),
        "e": flat,
    }
    return schedule(optimizer, autosgm_window_factor, total_steps, **options)


def autosgm_window_factor(step: int, total_steps: int, **options: float) -> float:
    """The window at a step counted from 0; the options are those of `steepest.optim.autosgm.windows.window`."""
    return window(step + 1, **options)  # type: ignore[arg-type]
