"""How much a metric depends on a number such as the learning rate, where it is best, and where training breaks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from steepest.diagnostics.width.transfer import lowest_point
from steepest.study.analysis.statistics import Summary, summarize
from steepest.study.question.axes import number
from steepest.study.question.definition import Metric
from steepest.study.trials.results import TrialResult

ACCURACY_TOLERANCE = 0.01
LOSS_TOLERANCE = 0.05


@dataclass(frozen=True)
class Sensitivity:
    """Of a metric to a number, over all its values and seeds.

    A value at which a run diverged is neither best nor good, whatever the other seeds gave there; only where runs
    diverged at every value are those judged by the runs that finished.

    Attributes:
        values: The number's values, ascending.
        summaries: Of the metric at each.
        best: Place of the best mean; None if no run finished.
        at_edge: Whether it is the first or last value, so that a better one may lie beyond.
        optimum: The best value: of a parabola through the best mean and its neighbors over the logarithm of the value;
            the best value itself at an edge, beside a divergence, or where a value is not positive. NaN if `best` is
            None.
        good: Places of the values around the best, without a gap, whose mean is within the tolerance of the best.
        good_at_edge: Whether the good region reaches the first or last value, so that it may be wider.
    """

    values: tuple[float, ...]
    summaries: tuple[Summary, ...]
    best: int | None
    at_edge: bool
    optimum: float
    good: tuple[int, ...]
    good_at_edge: bool

    @property
    def best_value(self) -> float:
        """The value with the best mean; NaN if no run finished."""
        return math.nan if self.best is None else self.values[self.best]

    @property
    def good_decades(self) -> float:
        """Width of the good region in decades; NaN where it has none (a value that is not positive, no run)."""
        if not self.good or self.values[self.good[0]] <= 0:
            return math.nan
        return math.log10(self.values[self.good[-1]] / self.values[self.good[0]])

    @property
    def diverged_shares(self) -> tuple[float, ...]:
        """Share of the runs that diverged at each value."""
        return tuple(each.diverged / max(1, each.count + each.diverged) for each in self.summaries)


@dataclass(frozen=True)
class Envelope:
    """Up to where training is stable.

    Attributes:
        largest: The largest value at which no run diverged, nor at any below; None if runs diverged at the smallest.
        first_failing: The smallest value at which a run diverged; None if none did, so that the limit lies beyond.
        stable_above: Values above `first_failing` at which no run diverged.
    """

    largest: float | None
    first_failing: float | None
    stable_above: tuple[float, ...]


def sensitivity(
    points: Mapping[float, Sequence[float]],
    mode: Literal["max", "min"],
    absolute: float | None = None,
    relative: float | None = None,
    confidence: float = 0.95,
) -> Sensitivity:
    """Best value, good region and summaries of a metric over a number.

    Args:
        points: By value, the metric of each run, not finite where it diverged.
        mode: Whether the largest or the smallest metric is best.
        absolute: Distance from the best mean that still counts as good, in the metric's units. Without this and
            `relative`: 0.01 (one point of accuracy) if the largest is best, else 5 % of the best, as for losses.
        relative: The same as a share of the best mean's size.
        confidence: Of the summaries' intervals.

    Raises:
        ValueError: if an argument is out of range, or both tolerances are given.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be max or min, not {mode}")
    if absolute is not None and relative is not None:
        raise ValueError(f"a tolerance is absolute or relative, not both ({absolute:g} and {relative:g})")
    if absolute is None and relative is None:
        absolute, relative = (ACCURACY_TOLERANCE, None) if mode == "max" else (None, LOSS_TOLERANCE)
    size = absolute if absolute is not None else relative
    if size is None or not 0 <= size < math.inf:
        raise ValueError(f"a tolerance must be a number from 0 on, not {size}")
    values = tuple(sorted(points))
    summaries = tuple(summarize(points[value], confidence=confidence) for value in values)
    # Costs: smaller is better, and what may not be chosen is infinite.
    sign = -1.0 if mode == "max" else 1.0
    strict = any(each.count and not each.diverged for each in summaries)
    costs = [sign * each.mean if each.count and not (strict and each.diverged) else math.inf for each in summaries]
    best = min(range(len(costs)), key=lambda place: costs[place], default=None)
    if best is None or math.isinf(costs[best]):
        return Sensitivity(values, summaries, None, False, math.nan, (), False)
    limit = costs[best] + (size if absolute is not None else size * abs(costs[best]))
    first = last = best
    while first > 0 and costs[first - 1] <= limit:
        first -= 1
    while last + 1 < len(costs) and costs[last + 1] <= limit:
        last += 1
    edges = (0, len(values) - 1)
    optimum = lowest_point(values, costs) if values[0] > 0 else values[best]
    good = tuple(range(first, last + 1))
    return Sensitivity(values, summaries, best, best in edges, optimum, good, first in edges or last in edges)


def curves(
    results: Sequence[TrialResult], metric: Metric, axis: str, by: str | None = None
) -> dict[str, dict[float, list[float]]]:
    """The metric of trials in the form of `sensitivity`, one curve for each label of another axis.

    Args:
        results: Trials of one stage; failed ones are left out.
        metric: What to read from them.
        axis: Name of an axis with numbers for labels, or of a tuned option such as `optimizer.lr`.
        by: Name of the axis whose labels have a curve each; None: all other axes, labels joined by ", ".

    Returns:
        By label, by value: one metric for each run, NaN where it diverged. Trials in which the option was not tuned
        are left out.

    Raises:
        ValueError: if there is no such axis, or its labels are not numbers.
    """
    found: dict[str, dict[float, list[float]]] = {}
    known = {name for result in results for name in (*result.labels, *result.point)}
    for name in (axis, by):
        if name is not None and results and name not in known:
            raise ValueError(f"there is no axis or tuned option {name}, only {', '.join(sorted(known))}")
    for result in results:
        if result.status == "failed" or axis not in (*result.labels, *result.point):
            continue
        others = {name: label for name, label in result.labels.items() if name != axis}
        label = ", ".join(others.values()) if by is None else result.labels[by]
        given = result.labels.get(axis, result.point.get(axis))
        value = number(given)
        if value is None:
            raise ValueError(f"the values of {axis} must be numbers, not {given}")
        found.setdefault(label, {}).setdefault(value, []).append(result.value(metric))
    return found


def shift(first: Sensitivity, last: Sensitivity) -> float:
    """Octaves by which the optimum of the second is above that of the first; 0: it stays (arXiv 2203.03466).

    Args:
        first: At one end of another axis, of widths for example.
        last: At the other end.

    Returns:
        NaN where an optimum is missing or not positive. With either at an edge it is a bound at most.
    """
    ends = first.optimum, last.optimum
    return math.log2(ends[1] / ends[0]) if min(ends) > 0 else math.nan


def envelope(points: Mapping[float, Sequence[float]]) -> Envelope:
    """The largest stable value, of a learning rate for example.

    Args:
        points: By value, the metric of each run, not finite where it diverged; a value without runs is left out.

    Returns:
        Up to where no run diverges.
    """
    stable = {value: all(map(math.isfinite, points[value])) for value in sorted(points) if points[value]}
    first_failing = next((value for value in stable if not stable[value]), None)
    if first_failing is None:
        return Envelope(max(stable, default=None), None, ())
    below = [value for value in stable if value < first_failing]
    above = [value for value in stable if value > first_failing and stable[value]]
    return Envelope(max(below, default=None), first_failing, tuple(above))
