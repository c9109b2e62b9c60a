"""The numerators of AutoSGM's learning rate: estimates of the correlation of weights and gradients.

`steepest.optim.autosgm.reference` has the same equations in readable form; here they are in-place operations on lists
of tensors, in an order that needs few of them. Estimates are non-negative and still per element: their mean over a
tensor, smoothed, is its numerator.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.optim.autosgm.batches import Part, State
from steepest.optim.autosgm.foreach import Scratch, clipped, into, scaled_and_shifted, totals

CHEBYSHEV_FACTOR = 4.0
SMOOTHING_POLE = 0.1

Tensors = list[Tensor]
Group = Mapping[str, Any]


@dataclass(frozen=True)
class Estimator:
    """An elementwise estimator and its state.

    Attributes:
        estimate: (group, part, gradients, denominators) -> the sum over each tensor of the part. It may overwrite the
            denominators.
        states: Names of its states.
    """

    estimate: Callable[[Group, Part, Tensors, Tensors], Tensors]
    states: tuple[str, ...]


def maximum_bound(group: Group, part: Part, gradients: Tensors, denominators: Tensors) -> Tensors:
    """Numerator 2."""
    lr, beta = group["lr"], group["numerator_beta"]
    correlation, room = part.states["correlation"], part.room("product")
    normalized = into(room, "div", gradients, denominators)
    torch._foreach_mul_(correlation, beta)
    torch._foreach_addcmul_(correlation, part.weights, part.weights, value=lr * (1 - beta))
    torch._foreach_addcmul_(correlation, normalized, normalized, value=lr * (1 - beta))
    return totals(into(room, "clamp_max", correlation, scalar=lr))


def markov(group: Group, part: Part, gradients: Tensors, denominators: Tensors) -> Tensors:
    """Numerator 3."""
    beta, weights, states = group["numerator_beta"], part.weights, part.states
    torch._foreach_mul_(states["power"], beta)
    torch._foreach_addcmul_(states["power"], weights, weights, value=beta * (1 - beta))
    product = into(part.room("product"), "mul", gradients, weights)
    torch._foreach_div_(product, denominators)
    room = part.room("ratio")
    magnitude = into(room, "abs", product)
    torch._foreach_add_(magnitude, group["eps"])
    torch._foreach_lerp_(states["magnitude"], magnitude, 1 - beta)
    # huber(x, m, f M) = x min(1, f M / m) = f x min(1 / f, M / m); its f goes into the scalar of the correlation.
    ratio = into(room, "div", states["magnitude"], magnitude)
    torch._foreach_clamp_max_(ratio, 1 / CHEBYSHEV_FACTOR)
    torch._foreach_mul_(product, ratio)
    return _correlation(group, part, product, CHEBYSHEV_FACTOR, denominators)


def elementwise_chebyshev(group: Group, part: Part, gradients: Tensors, denominators: Tensors) -> Tensors:
    """Numerator 4."""
    beta, eps, weights, states = group["numerator_beta"], group["eps"], part.weights, part.states
    torch._foreach_mul_(states["power"], beta)
    torch._foreach_addcmul_(states["power"], weights, weights, value=1 - beta)
    product = into(part.room("product"), "mul", gradients, weights)
    torch._foreach_div_(product, denominators)
    torch._foreach_lerp_(states["average"], product, 1 - beta)
    deviation = into(part.room("ratio"), "sub", product, states["average"])
    torch._foreach_abs_(deviation)
    torch._foreach_add_(deviation, eps)
    torch._foreach_mul_(states["deviation"], beta)
    torch._foreach_addcmul_(states["deviation"], deviation, deviation, value=1 - beta)
    ratio = into(part.room("inflated"), "sqrt", states["deviation"])
    torch._foreach_add_(ratio, eps)
    torch._foreach_div_(ratio, deviation)
    torch._foreach_clamp_max_(ratio, 1.0)
    torch._foreach_mul_(product, ratio)
    return _correlation(group, part, product, 1.0, denominators)


ESTIMATORS = {
    "maximum_bound": Estimator(maximum_bound, ("correlation",)),
    "markov": Estimator(markov, ("power", "magnitude", "correlation")),
    "elementwise_chebyshev": Estimator(elementwise_chebyshev, ("power", "average", "deviation", "correlation")),
}
# States of one number per tensor.
SCALAR_STATES: Mapping[str, tuple[str, ...]] = {
    "constant": (),
    "chebyshev": ("length", "length_deviation"),
    **dict.fromkeys(ESTIMATORS, ("numerator",)),
}


def smooth(sums: Tensors, sizes: list[int], states: list[State]) -> Tensors:
    """Numerators from the sums of an estimate over each tensor and the tensors' sizes: the mean, then over steps."""
    torch._foreach_mul_(sums, [1 / max(1, size) for size in sizes])
    numerators = [state["numerator"] for state in states]
    torch._foreach_lerp_(numerators, sums, 1 - SMOOTHING_POLE)
    return numerators


def chebyshev(
    group: Group, scale: float, updates: list[Tensors], states: list[State], scratch: Scratch | None
) -> Tensors:
    """Numerator 1: one number per tensor, from the length of its update.

    Args:
        group: The parameter group.
        scale: What the updates are yet to be multiplied by.
        updates: The smoothed, normalized gradients of a batch, part by part.
        states: States of the batch's tensors.
        scratch: That of the parts.
    """
    beta, eps = group["numerator_beta"], group["eps"]
    average = [state["length"] for state in states]
    lengths = _lengths(updates)
    torch._foreach_mul_(lengths, scale)
    torch._foreach_lerp_(average, lengths, 1 - beta)
    shifts = list(torch._foreach_neg(average))
    # One part after another, so that the next can have the memory of the last.
    rooms = (None if scratch is None else [scratch.like(update[0], "product")] for update in updates)
    deviation = _lengths(
        scaled_and_shifted(update, scale, shifts, room) for update, room in zip(updates, rooms, strict=True)
    )
    torch._foreach_add_(deviation, eps)
    square = [state["length_deviation"] for state in states]
    torch._foreach_mul_(square, beta)
    torch._foreach_addcmul_(square, deviation, deviation, value=1 - beta)
    bound = torch._foreach_sqrt(square)
    torch._foreach_add_(bound, eps)
    torch._foreach_mul_(bound, CHEBYSHEV_FACTOR)
    torch._foreach_minimum_(bound, deviation)
    torch._foreach_div_(bound, deviation)
    torch._foreach_mul_(bound, group["lr"])
    return list(bound)


def _correlation(group: Group, part: Part, product: Tensors, scale: float, denominators: Tensors) -> Tensors:
    """Filter scale * lr / (1 + power) * product; sums of its magnitude within the bounds of the trust region."""
    lr, correlation, room = group["lr"], part.states["correlation"], part.room("ratio")
    inflated = into(part.room("inflated"), "add", part.states["power"], scalar=1.0)
    torch._foreach_mul_(correlation, group["numerator_beta"])
    torch._foreach_addcdiv_(correlation, product, inflated, value=scale * lr)

    # The lower bound over lr, tukey(d) / (1 + power), where tukey(q) = (1 - q^2)^2 q.
    lowest = denominators
    torch._foreach_clamp_max_(lowest, 1.0)
    square = into(room, "mul", lowest, lowest)
    torch._foreach_addcmul_(lowest, lowest, square, value=-1.0)
    torch._foreach_addcmul_(lowest, lowest, square, value=-1.0)
    torch._foreach_div_(lowest, inflated)

    estimate = into(room, "abs", correlation)
    torch._foreach_mul_(estimate, 1 / lr if lr else 0.0)
    sums = totals(clipped(estimate, lowest, inflated))
    torch._foreach_mul_(sums, lr)
    return sums


def _lengths(parts: Iterable[Sequence[Tensor]]) -> Tensors:
    """The 2-norm of each tensor of a batch."""
    norms = [torch._foreach_norm(list(part)) for part in parts]
    if len(norms) == 1:
        return list(norms[0])
    return [torch.linalg.vector_norm(torch.stack(pieces)) for pieces in zip(*norms, strict=True)]
