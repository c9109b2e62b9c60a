"""A loss curve over rising learning rates: its values, how they are smoothed, and when it has risen too far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Spacing = Literal["exponential", "linear"]
Ending = Literal["end", "diverged", "not finite", "no step"]

STEPS_BEFORE_STOPPING = 10


@dataclass(frozen=True)
class LRCurve:
    """What a learning-rate range test has seen (arXiv 1506.01186).

    Attributes:
        optimizer: Name of what was tested, for legends.
        seed: Of data order, dropout and, on the command line, initialization.
        factors: Multiples of each parameter group's own learning rate, rising.
        learning_rates: The same as learning rates of the first group.
        losses: The loss at the weights before the step with that learning rate, averaged over ranks and micro-batches.
        smoothed: The bias-corrected moving average of the losses so far.
        ending: "end" of the range; "diverged" or "not finite": the loss; "no step": the optimizer took none any more.
        smoothing: Weight of the past in the moving average.
        limit: The smoothed loss above which the test had diverged, as it was at the end.
    """

    optimizer: str
    seed: int
    factors: list[float]
    learning_rates: list[float]
    losses: list[float]
    smoothed: list[float]
    ending: Ending
    smoothing: float
    limit: float


class MovingAverage:
    """Exponential moving average with its bias corrected: the first value is the first input.

    Args:
        smoothing: Weight of the past, in [0, 1); 0 for none.

    Raises:
        ValueError: if it is outside.
    """

    def __init__(self, smoothing: float) -> None:
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"smoothing must lie in [0, 1), got {smoothing}")
        self.smoothing = smoothing
        self._sum = self._weight = 0.0

    def add(self, value: float) -> float:
        """Take in a value and return the average so far."""
        self._sum = self.smoothing * self._sum + (1.0 - self.smoothing) * value
        self._weight = self.smoothing * self._weight + (1.0 - self.smoothing)
        return self._sum / self._weight


@dataclass(frozen=True)
class Divergence:
    """When a loss has risen so far that going on tells nothing more.

    By default that is above `l_min + rise * max(l_0 - l_min, |l_0| / 2)`, which holds for negative losses as well.

    Attributes:
        rise: How many times the fall so far (at least half of the first loss) the loss may rise above its minimum.
        ratio: Instead, the multiple of the first loss that it may reach; None for the rule above.

    Raises:
        ValueError: if `rise` is not above 0 or `ratio` not above 1.
    """

    rise: float = 2.0
    ratio: float | None = None

    def __post_init__(self) -> None:
        if not self.rise > 0:
            raise ValueError(f"divergence must be above 0, got {self.rise}")
        if self.ratio is not None and not self.ratio > 1:
            raise ValueError(f"stop_ratio must be above 1, got {self.ratio}")

    def limit(self, first: float, lowest: float) -> float:
        """The largest loss that is no divergence, from the first and the lowest one so far."""
        if self.ratio is not None:
            return first + (self.ratio - 1.0) * abs(first)
        return lowest + self.rise * max(first - lowest, abs(first) / 2.0)


def grid(low: float, high: float, count: int, spacing: Spacing) -> list[float]:
    """`count` values from `low` to `high`, both included, equally spaced or with equal ratios.

    Raises:
        ValueError: if the range is reversed, empty or not above 0, or there are fewer than two values.
    """
    if not 0.0 < low < high < math.inf:
        raise ValueError(f"a range must rise between two numbers above 0, got {low:g} to {high:g}")
    if count < 2:
        raise ValueError(f"a range needs at least 2 values, got {count}")
    if spacing not in ("exponential", "linear"):
        raise ValueError(f"spacing must be 'exponential' or 'linear', got {spacing!r}")
    shares = [index / (count - 1) for index in range(count)]
    if spacing == "linear":
        return [low + share * (high - low) for share in shares]
    return [low * (high / low) ** share for share in shares]


def centered(curve: LRCurve) -> list[float]:
    """The losses smoothed without delay, for judging the curve afterwards.

    The moving average follows the losses with a delay, which would shift every suggestion to larger learning rates: by
    9 steps at 0.9. So it is taken in both directions, with half of its memory in each. Losses above the limit of
    divergence count as that limit.
    """
    smoothing = max(0.0, 2.0 * curve.smoothing - 1.0)
    forth = _averages([min(loss, curve.limit) for loss in curve.losses], smoothing)
    return _averages(forth[::-1], smoothing)[::-1]


def _averages(values: Sequence[float], smoothing: float) -> list[float]:
    average = MovingAverage(smoothing)
    return [average.add(value) for value in values]
