"""Which learning rates a training survives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

TAIL = 10


@dataclass(frozen=True)
class LRTrial:
    """A short training at one learning rate.

    Attributes:
        optimizer: Name of what was tested.
        seed: Of data order, dropout and, on the command line, initialization.
        factor: Multiple of each parameter group's own learning rate.
        learning_rate: The same as learning rate of the first group.
        losses: Loss before each step; the first that is not finite is the last.
    """

    optimizer: str
    seed: int
    factor: float
    learning_rate: float
    losses: list[float]

    @property
    def final(self) -> float:
        """Mean of the last ten losses (of half of them, if there are fewer than twenty)."""
        tail = self.losses[-min(TAIL, max(1, len(self.losses) // 2)) :]
        return sum(tail) / len(tail)

    @property
    def stable(self) -> bool:
        """Whether every loss is finite, and the mean of the last ones not above the first."""
        return all(map(math.isfinite, self.losses)) and self.final <= self.losses[0]


def largest_stable(trials: Sequence[LRTrial]) -> float | None:
    """The largest learning rate that is stable for all seeds; None if there is none.

    A larger one may be stable for some seeds, and a smaller one unstable (an EMA optimizer's first steps, say): the
    trials tell.
    """
    unstable = {trial.learning_rate for trial in trials if not trial.stable}
    return max((trial.learning_rate for trial in trials if trial.learning_rate not in unstable), default=None)
