"""When a diagnostic measures."""

import math
import sys
from bisect import bisect_right
from collections.abc import Sequence

NEVER = sys.maxsize


class Cadence:
    """Steps at which to measure: every n optimizer steps, every n epochs, or at listed steps; exactly one of them.

    Steps are optimizer steps counted from 1, as `trainer.global_step` reads after the step.

    Args:
        every_n_steps: Measure at the multiples of this number.
        every_n_epochs: Measure at the last step of every n-th epoch.
        at_steps: Measure at these steps.
        first: Measure at step 1 as well (with `every_n_steps` only).

    Raises:
        ValueError: if none or several are given, or a number is below 1.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        at_steps: Sequence[int] | None = None,
        first: bool = False,
    ) -> None:
        given = {"every_n_steps": every_n_steps, "every_n_epochs": every_n_epochs, "at_steps": at_steps}
        named = [f"{name}={value}" for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise ValueError(
                f"give exactly one of every_n_steps, every_n_epochs and at_steps, got {', '.join(named) or 'none'}"
            )
        numbers = list(at_steps) if at_steps is not None else [every_n_steps or every_n_epochs or 0]
        if not numbers or min(numbers) < 1:
            raise ValueError(f"steps and epochs to measure at are counted from 1, got {named[0]}")
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.at_steps = None if at_steps is None else sorted(at_steps)
        self.first = first

    def next_step(self, step: int) -> int:
        """The first step after `step` to measure at; `NEVER` if there is none (epochs are asked by `epoch_due`)."""
        if self.every_n_steps is not None:
            if self.first and step == 0:
                return 1
            return (step // self.every_n_steps + 1) * self.every_n_steps
        if self.at_steps is not None:
            later = bisect_right(self.at_steps, step)
            return self.at_steps[later] if later < len(self.at_steps) else NEVER
        return NEVER

    def epoch_due(self, epoch: int) -> bool:
        """Whether to measure at the last step of this epoch (counted from 0)."""
        return self.every_n_epochs is not None and (epoch + 1) % self.every_n_epochs == 0


def steps_until_affordable(spent: float, cost: float, share: float, trained: float, steps: int) -> int:
    """How many more steps to train before another measurement keeps to its share of the time.

    Args:
        spent: Seconds spent on measurements so far.
        cost: Seconds the next one is expected to take.
        share: Largest ratio of measurement seconds to training seconds.
        trained: Seconds trained so far, measurements left out; above 0.
        steps: Optimizer steps taken in that time.

    Returns:
        At least 1.
    """
    missing = (spent + cost) / share - trained
    return max(1, math.ceil(missing / trained * max(1, steps)))
