"""A loss curve over rising learning rates: its values, how they are smoothed, and when it has risen too far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

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
        """The largest loss that is not a divergence, from the first and the lowest one so far."""
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


class GroupRates:
    """Multiplies every group's own learning rate by one factor, so that the ratios between groups stay.

    A group's own learning rate is the base of its schedule (`initial_lr`) if it has one.

    Args:
        optimizers: Whose groups.

    Attributes:
        own: Each group's own learning rate.
        reference: That of the first group whose rate is not 0: what a factor is told by.

    Raises:
        ValueError: if there is no group, one has no learning rate, or all are 0.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        if not self.groups:
            raise ValueError("there is no optimizer with parameters, so there is no learning rate to test")
        if not all("lr" in group for group in self.groups):
            raise ValueError("a parameter group has no learning rate `lr`, so there is nothing to test")
        self.own = [float(group.get("initial_lr", group["lr"])) for group in self.groups]
        moving = [rate for rate in self.own if rate > 0]
        if not moving:
            raise ValueError("the learning rate is 0 in all parameter groups: give the optimizer one above 0")
        self.reference = moving[0]
        self._factor = 1.0

    def set(self, factor: float) -> None:
        """Set every group's learning rate to its own times `factor`."""
        self._factor = factor
        self.hold()

    def hold(self) -> None:
        """Set the learning rates once more to what `set` made them, whoever has moved them since."""
        for group, own in zip(self.groups, self.own, strict=True):
            _set(group, "lr", own * self._factor)

    def apply(self, factor: float, schedulers: Sequence[Any] = ()) -> None:
        """Make `factor` times the own learning rates the groups' own from now on.

        Args:
            factor: Above 0.
            schedulers: PyTorch schedules of these groups; their base values move as well, or their next step would
                undo it. A rate that a schedule holds as a number of its own (an `eta_min`) stays.
        """
        for group in self.groups:
            for key in ("lr", "initial_lr", "max_lr", "min_lr"):
                if key in group:
                    _set(group, key, float(group[key]) * factor)
        for scheduler in schedulers:
            _scale(scheduler, factor)
        self.own = [own * factor for own in self.own]
        self.reference *= factor


def _set(group: dict[str, Any], key: str, value: float) -> None:
    if isinstance(group[key], Tensor):  # a compiled or capturable step reads the tensor
        group[key].fill_(value)
    else:
        group[key] = value


def _scale(scheduler: Any, factor: float) -> None:
    for name in ("base_lrs", "max_lrs", "_last_lr"):
        rates = getattr(scheduler, name, None)
        if isinstance(rates, list):
            setattr(scheduler, name, [rate * factor for rate in rates])
    for inner in getattr(scheduler, "_schedulers", ()):
        _scale(inner, factor)
