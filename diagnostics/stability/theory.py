"""How fast and how far an optimizer is stable on a quadratic, in closed form.

On 0.5 h w^2 every classical rule is a filter with one pole b, one zero c and gain G between the gradient and the step,

    y_t = b y_{t-1} + G (g_t - c g_{t-1}),    w_{t+1} = (1 - lr w_d) w_t - lr y_t / P,    g_t = (h + r) w_t,

with coupled decay r, decoupled decay w_d and a preconditioner P that stands still. The weights are sums of powers of
the two roots z of (z - 1 + lr w_d)(z - b) + x (z - c) = 0, x = lr G (h + r) / P: the larger |z| is the rate, and the
rule is stable while it is below 1. docs/theory.md derives what stands here.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from steepest.diagnostics.curvature.limits import filter_limit

Form = Literal["plain", "heavy_ball", "average", "nesterov", "pole_zero"]


@dataclass(frozen=True)
class Rule:
    """A classical optimizer whose preconditioner stands still.

    Attributes:
        name: What it is called in tables.
        form: Its filter: "plain" (no momentum), "heavy_ball" (v <- b v + g), "average" (v <- b v + (1 - b) g),
            "nesterov" (step g + b v with the heavy ball's v), "pole_zero" (AutoSGM's).
        momentum: b, in [0, 1); 0 for the plain form.
        zero: c of the pole-zero form, at most b.
        preconditioner: P, what an adaptive rule divides by, above 0; None for a rule that is not adaptive.
        coupled: Weight decay that adds to the gradient, at least 0.
        decoupled: Weight decay that takes away the share lr times itself of the weights in each step, at least 0.

    Raises:
        ValueError: if a number is out of its range.
    """

    name: str
    form: Form
    momentum: float = 0.0
    zero: float = 0.0
    preconditioner: float | None = None
    coupled: float = 0.0
    decoupled: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if not -math.inf < self.zero <= self.momentum:
            raise ValueError(f"zero must be finite and at most the momentum {self.momentum}, got {self.zero}")
        if self.preconditioner is not None and not 0 < self.preconditioner < math.inf:
            raise ValueError(f"preconditioner must be a number above 0, got {self.preconditioner}")
        for name, value in (("coupled", self.coupled), ("decoupled", self.decoupled)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} weight decay must be a number of at least 0, got {value}")
        if self.decoupled and self.form not in ("heavy_ball", "average"):
            raise ValueError(f"decoupled weight decay is known for heavy_ball and average, not for {self.form}")

    @property
    def divisor(self) -> float:
        """P, or 1."""
        return 1.0 if self.preconditioner is None else self.preconditioner

    @property
    def zero_and_gain(self) -> tuple[float, float]:
        """C and G of the filter."""
        b = self.momentum
        return {
            "plain": (0.0, 1.0),
            "heavy_ball": (0.0, 1.0),
            "average": (0.0, 1 - b),
            "nesterov": (b / (1 + b), 1 + b),
            "pole_zero": (self.zero, (1 - b) / (1 - self.zero)),
        }[self.form]


@dataclass(frozen=True)
class BestConstants:
    """The constants with the best rate on a spectrum.

    Attributes:
        rule: The rule with its best momentum.
        lr: Learning rate.
        rate: Factor by which the distance to the minimum shrinks in a step, in the long run.
    """

    rule: Rule
    lr: float
    rate: float


def classical_rules(
    momentum: float = 0.9, zero: float | None = None, weight_decay: float = 0.1, preconditioner: float = 1.0
) -> list[Rule]:
    """The classical optimizers, with one momentum, weight decay and preconditioner for all that have it.

    Args:
        momentum: Of heavy ball, Nesterov, the average, Adam's first moment and AutoSGM's filter, in [0, 1).
        zero: Of AutoSGM's filter, at most `momentum`; None takes half of Nesterov's, between heavy ball and Nesterov.
        weight_decay: Of the two rules that have decay, at least 0.
        preconditioner: Root of the second moment of Adam, AdamW and RMSprop, above 0.
    """
    zero = 0.5 * momentum / (1 + momentum) if zero is None else zero
    return [
        Rule("gradient descent", "plain"),
        Rule("coupled weight decay", "plain", coupled=weight_decay),
        Rule("heavy ball", "heavy_ball", momentum),
        Rule("Nesterov", "nesterov", momentum),
        Rule("EMA momentum", "average", momentum),
        Rule("AutoSGM's filter", "pole_zero", momentum, zero),
        Rule("RMSprop, frozen", "plain", preconditioner=preconditioner),
        Rule("Adam, frozen", "average", momentum, preconditioner=preconditioner),
        Rule("AdamW, frozen", "average", momentum, preconditioner=preconditioner, decoupled=weight_decay),
    ]


def check_spectrum(eigenvalues: list[float]) -> Tensor:
    """The eigenvalues as float64 of shape (count,), ascending.

    Raises:
        ValueError: if there is none, or one is not a number above 0: along it no learning rate converges.
    """
    if not eigenvalues:
        raise ValueError("a spectrum needs at least one eigenvalue, got none")
    for value in eigenvalues:
        if not 0 < value < math.inf:
            raise ValueError(f"eigenvalues must be finite numbers above 0, got {value:g}: no rate converges along it")
    return torch.tensor(sorted(eigenvalues), dtype=torch.float64)


def rates(rule: Rule, lr: Tensor | float, curvatures: Tensor) -> Tensor:
    """Spectral radius of the iteration for every learning rate and curvature, from the roots of its characteristic.

    Args:
        rule: The optimizer.
        lr: Learning rates, any shape.
        curvatures: Eigenvalues, shape (count,).

    Returns:
        Shape (*lr.shape, count), float64.
    """
    zero, gain = rule.zero_and_gain
    lr = torch.as_tensor(lr, dtype=torch.float64)[..., None]
    kept = 1 - lr * rule.decoupled
    pull = lr * gain * (curvatures.double() + rule.coupled) / rule.divisor
    total, product = kept + rule.momentum - pull, kept * rule.momentum - pull * zero
    discriminant = total.square() - 4 * product
    real = 0.5 * (total.abs() + discriminant.clamp(min=0).sqrt())
    return torch.where(discriminant < 0, product.clamp(min=0).sqrt(), real)


def rate(rule: Rule, lr: float, curvatures: Tensor) -> float:
    """The largest of `rates` over a spectrum: what limits convergence, above 1 where the rule diverges."""
    return float(rates(rule, lr, curvatures).max())


def largest_stable_lr(rule: Rule, largest_curvature: float) -> float:
    """Learning rate at which the rule starts to diverge along the largest curvature.

    Args:
        rule: The optimizer.
        largest_curvature: Largest eigenvalue of the Hessian, above 0.
    """
    zero, gain = rule.zero_and_gain
    # `filter_limit` is for the filter of gain (1 - b) / (1 - c).
    limit = filter_limit(rule.momentum, zero) * (1 - rule.momentum) / ((1 - zero) * gain)
    lr = limit * rule.divisor / (largest_curvature + rule.coupled)
    # A share lr w_d is gone before the gradient acts: lr = (1 - lr w_d / 2) times the above.
    return 1 / (1 / lr + rule.decoupled / 2)


def best_constants(rule: Rule, smallest: float, largest: float) -> BestConstants:
    """Learning rate and momentum of the best rate on a spectrum between two curvatures.

    The best member of AutoSGM's family of filters has no zero: no method with one memory beats the heavy ball. A rule
    with weight decay converges to the minimum of what it really minimizes.

    Args:
        rule: The optimizer; its momentum and zero are chosen anew, decay and preconditioner stay.
        smallest: Smallest eigenvalue, above 0.
        largest: Largest eigenvalue.
    """
    low, high = ((value + rule.coupled) / rule.divisor for value in (smallest, largest))
    if rule.form == "plain":
        return BestConstants(rule, 2 / (high + low), (high - low) / (high + low))
    if rule.form == "nesterov":
        root = math.sqrt(3 * high / low + 1)
        return BestConstants(replace(rule, momentum=(root - 2) / (root + 2)), 4 / (3 * high + low), 1 - 2 / root)
    decay = rule.decoupled
    best = (math.sqrt(high + decay) - math.sqrt(low + decay)) / (math.sqrt(high + decay) + math.sqrt(low + decay))
    # Both ends are critically damped: with s^2 = 1 - lr w_d and t^2 = b, s + t and s - t follow from them.
    total, difference = (1 + best) * math.sqrt(high / (high + decay)), (1 - best) * math.sqrt(low / (low + decay))
    rule = replace(rule, momentum=((total - difference) / 2) ** 2, zero=0.0)
    return BestConstants(rule, total**2 / (high * rule.zero_and_gain[1]), best)


ONE_MODE = 1e-9  # relative misfit below which one power explains a coordinate


def fitted_rate(trajectory: Tensor) -> float:
    """Largest factor per step among the coordinates of a trajectory towards 0, by Prony's method.

    Every coordinate is taken for a sum of one or two powers z^t (complex ones swing). Those obey a recurrence
    w_{t+1} = p w_t + q w_{t-1}, whose coefficients follow by least squares, without waiting for the faster power to
    die out as the slope of a logarithm would.

    Args:
        trajectory: Shape (steps + 1, coordinates), at least 5 steps, the minimum at 0.

    Returns:
        The largest |z|: 0 for coordinates that arrive exactly, above 1 if one diverges.

    Raises:
        ValueError: if there are fewer than 5 steps or a value is not finite.
    """
    if len(trajectory) < 6:
        raise ValueError(f"a rate needs at least 5 steps, got {len(trajectory) - 1}")
    if not bool(torch.isfinite(trajectory).all()):
        raise ValueError("a rate needs finite weights, the trajectory overflowed")
    return max(_rate(column) for column in trajectory.double().T)


def _rate(weights: Tensor) -> float:
    # The first step may start from another state than a later one, such as an average's first velocity.
    weights = weights[1:]
    scale = weights.abs().max()
    if scale == 0:
        return 0.0
    older, old, new = weights[:-2] / scale, weights[1:-1] / scale, weights[2:] / scale
    if not bool(old.any()):
        return 0.0
    factor = (new @ old) / (old @ old)
    if (new - factor * old).norm() <= ONE_MODE * old.norm():
        return float(factor.abs())
    fitted = torch.linalg.lstsq(torch.stack([old, older], 1), new[:, None], driver="gelsd").solution.flatten()
    companion = torch.stack([fitted, torch.tensor([1.0, 0.0], dtype=torch.float64)])
    return float(torch.linalg.eigvals(companion).abs().max())
