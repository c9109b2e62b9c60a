"""Learning rates read off the curve of a range test, always over the logarithm of the learning rate."""

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy

from steepest.diagnostics.lr_range.curve import LRCurve, centered

Rule = Literal["steepest", "minimum", "valley", "slide", "max_stable"]

SLIDE_WINDOW = 15
SLIDE_TOLERANCE = 0.005  # change of the loss per step of the curve


def suggestions(curve: LRCurve) -> dict[str, float | None]:
    """The learning rate that each rule suggests; None where the curve does not tell, as its fall is lost in its noise.

    "steepest": where the loss falls fastest. "minimum": a tenth of where it is lowest, which noise moves least.
    "valley": the middle of the longest decreasing subsequence down to the minimum. "slide": going left from the
    minimum, the left end of the first window of 15 steps at whose ends the slopes agree. "max_stable": the largest one
    after whose step the loss was at most the first one: a bound, of which a half to a tenth is a good learning rate; if
    the range ended before the loss rose, it is a lower bound.
    """
    losses = centered(curve)
    if len(losses) < 3 or losses[0] - min(losses) <= _noise(curve.losses):
        return {**dict.fromkeys(RULES), "max_stable": _max_stable(curve.learning_rates, losses) if losses else None}
    return {name: rule(curve.learning_rates, losses) for name, rule in RULES.items()}


def suggest(curve: LRCurve, rule: Rule) -> float | None:
    """The suggestion of one rule, see `suggestions`.

    Raises:
        ValueError: if there is no such rule.
    """
    check_rule(rule)
    return suggestions(curve)[rule]


def check_rule(rule: str) -> None:
    """Refuse an unknown rule.

    Raises:
        ValueError: if there is no such rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")


def combined(curves: Sequence[LRCurve], rule: Rule) -> float | None:
    """The median over curves (of several seeds) of what a rule suggests, over the logarithm; None if none does."""
    values = [value for curve in curves if (value := suggest(curve, rule)) is not None]
    return math.exp(float(numpy.median(numpy.log(values)))) if values else None


def _noise(losses: Sequence[float]) -> float:
    """Standard deviation of a loss around its trend, from the median change between neighbours."""
    return 1.4826 * float(numpy.median(numpy.abs(numpy.diff(losses)))) / math.sqrt(2.0)


def _slopes(learning_rates: Sequence[float], losses: Sequence[float]) -> numpy.ndarray:
    return numpy.gradient(numpy.asarray(losses), numpy.log(numpy.asarray(learning_rates)))


def _steepest(learning_rates: Sequence[float], losses: Sequence[float]) -> float | None:
    # Up to the minimum: once it has diverged, a loss falls steeply back.
    slopes = _slopes(learning_rates, losses)[: int(numpy.argmin(losses)) + 1]
    return learning_rates[int(numpy.argmin(slopes))]


def _minimum(learning_rates: Sequence[float], losses: Sequence[float]) -> float | None:
    return learning_rates[int(numpy.argmin(losses))] / 10.0


def _valley(learning_rates: Sequence[float], losses: Sequence[float]) -> float | None:
    members = _longest_decreasing(losses[: int(numpy.argmin(losses)) + 1])
    return learning_rates[members[len(members) // 2]] if len(members) > 1 else None


def _longest_decreasing(values: Sequence[float]) -> list[int]:
    """Indices of the longest strictly decreasing subsequence, by patience sorting."""
    ends: list[float] = []  # the largest last value, negated, of a subsequence of each length
    last: list[int] = []
    before: list[int | None] = []
    for index, value in enumerate(values):
        place = bisect.bisect_left(ends, -value)
        before.append(last[place - 1] if place else None)
        ends[place : place + 1] = [-value]
        last[place : place + 1] = [index]
    member = last[-1] if last else None
    members = []
    while member is not None:
        members.append(member)
        member = before[member]
    return members[::-1]


def _slide(learning_rates: Sequence[float], losses: Sequence[float]) -> float | None:
    right = int(numpy.argmin(losses))  # the rise behind it can match any slope by chance
    if right < SLIDE_WINDOW:
        return None
    # Per step of a curve with equal ratios, as fastai counts; the slope itself is over the logarithm.
    ratio = math.log(learning_rates[-1] / learning_rates[0]) / (len(learning_rates) - 1)
    slopes = _slopes(learning_rates, losses) * ratio
    while right > SLIDE_WINDOW and abs(slopes[right] - slopes[right - SLIDE_WINDOW]) > SLIDE_TOLERANCE:
        right -= 1
    return learning_rates[right - SLIDE_WINDOW]


def _max_stable(learning_rates: Sequence[float], losses: Sequence[float]) -> float | None:
    # A loss is that before the step of its learning rate: it tells about the rate before.
    last = max(index for index, loss in enumerate(losses) if loss <= losses[0])
    return learning_rates[max(last - 1, 0)]


RULES: dict[str, Callable[[Sequence[float], Sequence[float]], float | None]] = {
    "steepest": _steepest,
    "minimum": _minimum,
    "valley": _valley,
    "slide": _slide,
    "max_stable": _max_stable,
}
