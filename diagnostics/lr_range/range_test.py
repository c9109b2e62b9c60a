"""The learning-rate range test and the stability envelope, over any function that takes a training step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.diagnostics.common.snapshot import restored
from steepest.diagnostics.lr_range.curve import (
    STEPS_BEFORE_STOPPING,
    Divergence,
    Ending,
    GroupRates,
    LRCurve,
    MovingAverage,
    Spacing,
    grid,
)

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


Step = Callable[[], float | None]


def lr_range_test(
    module: nn.Module,
    optimizer: Optimizer,
    closure: Callable[[], Tensor],
    *,
    factors: tuple[float, float] = (1e-4, 1e3),
    steps: int = 100,
    spacing: Spacing = "exponential",
    smoothing: float = 0.9,
    divergence: Divergence | None = None,
) -> LRCurve:
    """Train with a rising learning rate, and leave no trace of it (arXiv 1506.01186).

    Args:
        module: The network; weights, gradients, buffers and everything else in it get their values back.
        optimizer: Trains it; also as it was afterwards.
        closure: Fetches a batch, zeroes the gradients, calls `backward` and returns the loss, as for `Optimizer.step`.
        factors: Range of multiples of each parameter group's own learning rate.
        steps: Learning rates in the range, with an optimizer step each; at least 2.
        spacing: "exponential" (equal ratios) or "linear".
        smoothing: Weight of the past in the moving average of the loss, in [0, 1).
        divergence: When to stop; None for the default rule.

    Returns:
        The curve; `steepest.diagnostics.lr_range.suggestions.suggestions` reads learning rates off it.

    Raises:
        ValueError: if an option is out of range, or the optimizer has no learning rate above 0.
    """
    rates = GroupRates([optimizer])

    def step() -> float:
        first: list[Tensor] = []

        def evaluate() -> Tensor:
            loss = closure()
            first.append(loss.detach())
            return loss

        optimizer.step(evaluate)  # type: ignore[arg-type]
        return float(first[0])

    with restored(module, optimizer):
        return range_curve(
            step,
            rates,
            grid(*factors, steps, spacing),
            optimizer=type(optimizer).__name__,
            smoothing=smoothing,
            divergence=divergence or Divergence(),
        )


def range_curve(
    step: Step,
    rates: GroupRates,
    factors: Sequence[float],
    *,
    optimizer: str,
    seed: int = 0,
    smoothing: float = 0.9,
    divergence: Divergence,
) -> LRCurve:
    """Take one step at each learning rate until the loss diverges; restores nothing.

    Args:
        step: Takes one optimizer step at the learning rates set, and returns the loss before it, the same on all ranks;
            None if the optimizer takes no steps any more.
        rates: The learning rates to move.
        factors: Rising multiples of the groups' own learning rates.
        optimizer: Name for legends.
        seed: For legends.
        smoothing: Weight of the past in the moving average, in [0, 1).
        divergence: When to stop.
    """
    average = MovingAverage(smoothing)
    losses: list[float] = []
    smoothed: list[float] = []
    limit = math.inf
    ending: Ending = "end"
    for factor in factors:
        rates.set(factor)
        loss = step()
        if loss is None:
            ending = "no step"
            break
        if not math.isfinite(loss):
            ending = "not finite"
            break
        losses.append(loss)
        smoothed.append(average.add(loss))
        limit = divergence.limit(losses[0], min(smoothed))
        if len(losses) > STEPS_BEFORE_STOPPING and smoothed[-1] > limit:
            ending = "diverged"
            break
    used = list(factors[: len(losses)])
    learning_rates = [factor * rates.reference for factor in used]
    return LRCurve(optimizer, seed, used, learning_rates, losses, smoothed, ending, smoothing, limit)


def trial(step: Step, rates: GroupRates, factor: float, steps: int, *, optimizer: str, seed: int = 0) -> LRTrial:
    """Train for some steps at one learning rate, or until a loss is not finite; restores nothing.

    Args:
        step: As for `range_curve`.
        rates: The learning rates to set.
        factor: Multiple of the groups' own learning rates.
        steps: How many steps, at least 1.
        optimizer: Name for legends.
        seed: For legends.
    """
    rates.set(factor)
    losses: list[float] = []
    while len(losses) < steps and (not losses or math.isfinite(losses[-1])):
        loss = step()
        losses.append(math.nan if loss is None else loss)
    return LRTrial(optimizer, seed, factor, factor * rates.reference, losses)
