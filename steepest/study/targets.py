"""Steps and training time to a target, where a miss counts as infinity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy

from steepest.study.definition import Metric
from steepest.study.results import TrialResult


@dataclass(frozen=True)
class Crossing:
    """Where a run first reached its target.

    Attributes:
        step: Optimizer steps until then; infinite if it never did.
        seconds: Training time until then, without evaluation; infinite if it never did, NaN if no clock ran.
    """

    step: float
    seconds: float

    @property
    def reached(self) -> bool:
        """Whether it ever did."""
        return math.isfinite(self.step)


@dataclass(frozen=True)
class TimeToTarget:
    """Of several runs; infinite means never.

    Attributes:
        count: Runs that could have reached the target: those that finished or diverged.
        reached: How many of them did.
        median_steps: Infinite if half of the runs or more missed.
        mean_steps: Infinite if any run missed.
        median_seconds: Likewise; NaN if no clock ran.
        mean_seconds: Likewise.
    """

    count: int
    reached: int
    median_steps: float
    mean_steps: float
    median_seconds: float
    mean_seconds: float

    def __str__(self) -> str:
        return f"{self.reached} of {self.count} reached"


MISS = Crossing(math.inf, math.inf)


def first_crossing(points: Sequence[Sequence[float | None]], target: float, mode: Literal["max", "min"]) -> Crossing:
    """The first evaluation at which a metric is at its target or beyond.

    Nothing is interpolated: targets are judged where every run of a study is evaluated, so that no run gains from being
    looked at more often.

    Args:
        points: Step, training seconds (None without a clock) and value of each evaluation, in order.
        target: Value to reach.
        mode: "max" if larger is better, "min" if smaller is.

    Returns:
        Its step and time, infinite if there is none.

    Raises:
        ValueError: if `mode` is neither.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be max or min, not {mode}")
    for step, seconds, value in points:
        if step is not None and value is not None and (value >= target if mode == "max" else value <= target):
            return Crossing(float(step), math.nan if seconds is None else float(seconds))
    return MISS


def crossing(result: TrialResult, metric: Metric) -> Crossing:
    """Where a trial first reached the metric's target; one that diverged later has not reached it.

    A run that an optimizer cannot complete is of no use, however good it was for a while.

    Raises:
        ValueError: if the metric has no target.
    """
    if metric.target is None:
        raise ValueError(f"the metric {metric.name} has no target")
    if result.status != "finished":
        return MISS
    return first_crossing(result.history.get(metric.name, []), metric.target, metric.mode)


def time_to_target(results: Sequence[TrialResult], metric: Metric) -> TimeToTarget:
    """Mean and median time to the target over trials; failed ones, which say nothing of the optimizer, are left out.

    Args:
        results: Trials that differ in their seed.
        metric: With a target.

    Raises:
        ValueError: if the metric has no target.
    """
    crossings = [crossing(result, metric) for result in results if result.status != "failed"]
    steps, seconds = [each.step for each in crossings], [each.seconds for each in crossings]
    reached = sum(each.reached for each in crossings)
    return TimeToTarget(len(crossings), reached, *_middles(steps), *_middles(seconds))


def _middles(values: Sequence[float]) -> tuple[float, float]:
    """Median and mean, of which infinity may be part."""
    return (float(numpy.median(values)), float(numpy.mean(values))) if values else (math.nan, math.nan)
