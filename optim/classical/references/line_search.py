"""How far to go along a direction of descent."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Point:
    """A point on the line w + step * direction.

    Attributes:
        step: How far along the line.
        loss: Loss there.
        slope: Derivative of the loss by `step`; below 0 it still goes down.
        gradient: Gradient there, shape (n,).
    """

    step: float
    loss: float
    slope: float
    gradient: Tensor


Evaluate = Callable[[float], Point]


def enough_decrease(point: Point, start: Point, decrease: float) -> bool:
    """Armijo's condition: the loss has fallen by at least the share `decrease` of what the first slope promised."""
    return point.loss <= start.loss + decrease * point.step * start.slope


def backtracking(
    evaluate: Evaluate, start: Point, first_step: float, decrease: float = 1e-4, max_evaluations: int = 25
) -> Point:
    """Halve the step until the loss has fallen enough (Armijo 1966).

    Args:
        evaluate: The point at a step.
        start: The point at step 0, of negative slope.
        first_step: Step to try first, above 0.
        decrease: Share of the promised decrease that is enough, in (0, 1).
        max_evaluations: Steps to try.

    Returns:
        The first point with enough decrease, or `start` if none had.
    """
    step = first_step
    for _ in range(max_evaluations):
        point = evaluate(step)
        if enough_decrease(point, start, decrease):
            return point
        step /= 2
    return start


def strong_wolfe(
    evaluate: Evaluate,
    start: Point,
    first_step: float,
    decrease: float = 1e-4,
    curvature: float = 0.9,
    max_evaluations: int = 25,
) -> Point:
    """Find a point with enough decrease where the line has become flat (Nocedal and Wright 2006, algorithm 3.5).

    The second condition, |slope| <= curvature * |first slope|, makes step and change of the gradient point the same
    way, which L-BFGS needs. Steps are doubled until a minimum lies between two of them, which `_zoom` narrows down.

    Args:
        evaluate: The point at a step.
        start: The point at step 0, of negative slope.
        first_step: Step to try first, above 0.
        decrease: Share of the promised decrease that is enough, in (0, curvature).
        curvature: Share of the first slope that may be left, in (decrease, 1).
        max_evaluations: Points to evaluate.

    Returns:
        A point with both properties; if none was found, the lowest with enough decrease, or `start`.
    """

    def flat(point: Point) -> bool:
        return abs(point.slope) <= curvature * abs(start.slope)

    low, step = start, first_step
    for count in range(1, max_evaluations + 1):
        point = evaluate(step)
        left = max_evaluations - count
        if not enough_decrease(point, start, decrease) or (count > 1 and point.loss >= low.loss):
            return _zoom(evaluate, start, low, point, flat, decrease, left)
        if flat(point):
            return point
        if point.slope >= 0:
            return _zoom(evaluate, start, point, low, flat, decrease, left)
        low, step = point, 2 * step
    return low


def _zoom(
    evaluate: Evaluate,
    start: Point,
    low: Point,
    high: Point,
    flat: Callable[[Point], bool],
    decrease: float,
    max_evaluations: int,
) -> Point:
    """Narrow down an interval that holds a minimum; `low` is its end with the lower loss (algorithm 3.6)."""
    for _ in range(max_evaluations):
        point = evaluate(_between(low, high))
        if not enough_decrease(point, start, decrease) or point.loss >= low.loss:
            high = point
            continue
        if flat(point):
            return point
        if point.slope * (high.step - low.step) >= 0:
            high = low
        low = point
    return low


def _between(low: Point, high: Point) -> float:
    """Minimum of the cubic through losses and slopes of two points, or the middle if it is near an end or missing."""
    width = high.step - low.step
    a = low.slope + high.slope - 3 * (high.loss - low.loss) / width
    square = a * a - low.slope * high.slope
    if math.isfinite(square) and square >= 0:
        root = math.copysign(math.sqrt(square), width)
        bottom = high.slope - low.slope + 2 * root
        share = 1 - (high.slope + root - a) / bottom if bottom != 0 else 0.5
        if 0.1 <= share <= 0.9:
            return low.step + share * width
    return low.step + width / 2
