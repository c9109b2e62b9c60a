"""A step of one tensor as functions of its elements, written to be compiled (`steepest.optim.autosgm.compiled` does).

Compiled, each function is one pass over the memory of its tensors. A numerator is known only after all elements were
seen, so these steps are two passes: the estimate with its states, then `move`, which computes the update anew rather
than have it kept in memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Numbers(NamedTuple):
    """The numbers of a step, as tensors without a shape: plain ones would be compiled in, anew for each value.

    Attributes:
        lr: Learning rate.
        rate: Factor of the window, negative to go down.
        decay: Weight decay that joins the gradient, or 0.
        pull: Share of the weights that joins the update, or 0.
        gain: One minus the pole of the gradient's filter.
        blend: The same over one minus the filter's zero.
        scale: What the filter's output at this gain is multiplied by.
        square_pole: Pole of the denominator's filter.
        square_gain: One minus it.
        square_scale: What this filter's output is multiplied by.
        shift: Added under the root of the denominator.
        eps: Added to the root.
        pole: Pole of the numerator's filters.
        rest: One minus it.
        outlier: Multiple of the average beyond which the Chebyshev and Markov numerators bound.
        smoothing: Pole of the filter that ends all numerators that are means.
    """

    lr: Tensor
    rate: Tensor
    decay: Tensor
    pull: Tensor
    gain: Tensor
    blend: Tensor
    scale: Tensor
    square_pole: Tensor
    square_gain: Tensor
    square_scale: Tensor
    shift: Tensor
    eps: Tensor
    pole: Tensor
    rest: Tensor
    outlier: Tensor
    smoothing: Tensor


@dataclass(frozen=True)
class Kernel:
    """A function (numbers, weights, gradients, states...) that changes weights or states in place.

    Attributes:
        function: It returns nothing, or the tensor's numerator.
        states: Names of the states it takes, in order.
    """

    function: Callable[..., Tensor | None]
    states: tuple[str, ...]


def plain(n: Numbers, w: Tensor, g: Tensor, exp_avg: Tensor) -> None:
    """The whole step without a denominator."""
    _move(n, w, g, exp_avg, n.lr)


def constant(n: Numbers, w: Tensor, g: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor) -> None:
    """Numerator 0: the whole step."""
    exp_avg_sq.copy_(_square(n, w, g, exp_avg_sq))
    _move(n, w, g, exp_avg, n.lr, _denominator(n, exp_avg_sq))


def move(n: Numbers, w: Tensor, g: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, numerator: Tensor) -> None:
    """The rest of the step once the numerator is known and the denominator's filter has seen the gradient."""
    _move(n, w, g, exp_avg, numerator, _denominator(n, exp_avg_sq))


def chebyshev(
    n: Numbers, w: Tensor, g: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, length: Tensor, length_deviation: Tensor
) -> Tensor:
    """Numerator 1."""
    square = _square(n, w, g, exp_avg_sq)
    # Both lengths, of the update and of its distance to a number, from one pass: |v - m|^2 = size (var + (mean - m)^2).
    variance, mean = torch.var_mean(_update(n, w, g, exp_avg, _denominator(n, square)), correction=0)
    size = w.numel()
    average = _lerp(length, (size * (variance + mean * mean)).sqrt(), n.rest)
    away = mean - average
    deviation = (size * (variance + away * away)).sqrt() + n.eps
    bound = n.pole * length_deviation + n.rest * (deviation * deviation)
    exp_avg_sq.copy_(square)
    length.copy_(average)
    length_deviation.copy_(bound)
    return n.lr * (torch.minimum(n.outlier * (bound.sqrt() + n.eps), deviation) / deviation)


def maximum_bound(
    n: Numbers, w: Tensor, g: Tensor, exp_avg_sq: Tensor, correlation: Tensor, numerator: Tensor
) -> Tensor:
    """Numerator 2."""
    square = _square(n, w, g, exp_avg_sq)
    normalized = _decayed(n, w, g) / _denominator(n, square)
    bound = n.pole * correlation + n.lr * n.rest * (w * w + normalized * normalized)
    exp_avg_sq.copy_(square)
    correlation.copy_(bound)
    return _smoothed(n, numerator, torch.minimum(bound, n.lr))


def markov(
    n: Numbers,
    w: Tensor,
    g: Tensor,
    exp_avg_sq: Tensor,
    power: Tensor,
    magnitude: Tensor,
    correlation: Tensor,
    numerator: Tensor,
) -> Tensor:
    """Numerator 3."""
    square = _square(n, w, g, exp_avg_sq)
    denominator = _denominator(n, square)
    power_now = n.pole * (power + n.rest * (w * w))
    product = w * _decayed(n, w, g) / denominator
    size = product.abs() + n.eps
    average = _lerp(magnitude, size, n.rest)
    bounded = product * (n.outlier * average / size).clamp(max=1.0)
    filtered, estimate = _correlation(n, correlation, bounded, power_now, denominator)
    exp_avg_sq.copy_(square)
    power.copy_(power_now)
    magnitude.copy_(average)
    correlation.copy_(filtered)
    return _smoothed(n, numerator, estimate)


def elementwise_chebyshev(
    n: Numbers,
    w: Tensor,
    g: Tensor,
    exp_avg_sq: Tensor,
    power: Tensor,
    average: Tensor,
    deviation: Tensor,
    correlation: Tensor,
    numerator: Tensor,
) -> Tensor:
    """Numerator 4."""
    square = _square(n, w, g, exp_avg_sq)
    denominator = _denominator(n, square)
    power_now = n.pole * power + n.rest * (w * w)
    product = w * _decayed(n, w, g) / denominator
    average_now = _lerp(average, product, n.rest)
    distance = (product - average_now).abs() + n.eps
    variance = n.pole * deviation + n.rest * (distance * distance)
    bounded = product * ((variance.sqrt() + n.eps) / distance).clamp(max=1.0)
    filtered, estimate = _correlation(n, correlation, bounded, power_now, denominator)
    exp_avg_sq.copy_(square)
    power.copy_(power_now)
    average.copy_(average_now)
    deviation.copy_(variance)
    correlation.copy_(filtered)
    return _smoothed(n, numerator, estimate)


_MOVE = Kernel(move, ("exp_avg", "exp_avg_sq", "numerator"))
# The step without a denominator, and the steps by their numerator; what a kernel returns is "numerator" to the next.
PLAIN = (Kernel(plain, ("exp_avg",)),)
KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "constant": (Kernel(constant, ("exp_avg", "exp_avg_sq")),),
    "chebyshev": (
        Kernel(chebyshev, ("exp_avg", "exp_avg_sq", "length", "length_deviation")),
        _MOVE,
    ),
    "maximum_bound": (Kernel(maximum_bound, ("exp_avg_sq", "correlation", "numerator")), _MOVE),
    "markov": (Kernel(markov, ("exp_avg_sq", "power", "magnitude", "correlation", "numerator")), _MOVE),
    "elementwise_chebyshev": (
        Kernel(elementwise_chebyshev, ("exp_avg_sq", "power", "average", "deviation", "correlation", "numerator")),
        _MOVE,
    ),
}


def _lerp(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    # From the nearer end, as torch.lerp, so that weight 1 gives the end to the bit.
    return torch.where(weight < 0.5, start + weight * (end - start), end - (1 - weight) * (end - start))


def _decayed(n: Numbers, w: Tensor, g: Tensor) -> Tensor:
    return g + n.decay * w


def _square(n: Numbers, w: Tensor, g: Tensor, exp_avg_sq: Tensor) -> Tensor:
    decayed = _decayed(n, w, g)
    return n.square_pole * exp_avg_sq + n.square_gain * (decayed * decayed)


def _denominator(n: Numbers, exp_avg_sq: Tensor) -> Tensor:
    return (n.square_scale * exp_avg_sq + n.shift).sqrt() + n.eps


def _update(n: Numbers, w: Tensor, g: Tensor, exp_avg: Tensor, denominator: Tensor | None) -> Tensor:
    # With m the average of g, (m_t - gamma m_{t-1}) / (1 - gamma) is on the line from m_{t-1} to g_t.
    filtered = n.scale * _lerp(exp_avg, _decayed(n, w, g), n.blend)
    return (filtered if denominator is None else filtered / denominator) + n.pull * w


def _move(
    n: Numbers, w: Tensor, g: Tensor, exp_avg: Tensor, numerator: Tensor, denominator: Tensor | None = None
) -> None:
    update = _update(n, w, g, exp_avg, denominator)
    exp_avg.copy_(_lerp(exp_avg, _decayed(n, w, g), n.gain))
    w.add_(n.rate * numerator * update)


def _correlation(
    n: Numbers, correlation: Tensor, bounded: Tensor, power: Tensor, denominator: Tensor
) -> tuple[Tensor, Tensor]:
    """The filtered correlation, and its magnitude within the bounds of the trust region."""
    rate = n.lr / (1 + power)
    filtered = n.pole * correlation + rate * bounded
    small = denominator.clamp(max=1.0)
    kept = 1 - small * small
    lowest = kept * kept * small * rate
    return filtered, torch.minimum(torch.maximum(filtered.abs(), lowest), n.lr * (1 + power))


def _smoothed(n: Numbers, numerator: Tensor, estimate: Tensor) -> Tensor:
    """The numerator's state, moved towards the mean of an estimate."""
    # Many estimates are equal, at a bound: in 32 bits their sum would be rounded the same way again and again.
    mean = estimate.mean(dtype=torch.float64).to(estimate.dtype)
    numerator.copy_(mean + n.smoothing * (numerator - mean))
    return numerator
