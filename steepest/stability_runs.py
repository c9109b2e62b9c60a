"""Real optimizers on a quadratic: what the theory of stability says, seen."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.convergence_rate import fitted_rate
from diagnostics.stability_theory import Rule
from optim import OPTIMIZERS

# A decay of 1 to the last digit: a second moment that is set once stands still.
FROZEN = 1 - 2.0**-53
SETTLED = 1e18  # steps after which bias correction is done

GROWTH = 1e9  # weights this many times as large as at the start have diverged
PRECISION = 1e-6  # relative, of a limit found by bisection
STEPS = 100  # enough to fit a rate to: what has died out by then says nothing


def optimizer_of(rule: Rule) -> tuple[str, dict[str, Any]]:
    """Name and options, besides the learning rate, of the registered optimizer that is this rule."""
    b = rule.momentum
    if rule.form == "plain" or (rule.form == "nesterov" and b == 0):
        name, options = "sgd", {}
    elif rule.form == "nesterov":
        name, options = "nesterov", {"momentum": b}
    elif rule.form == "pole_zero":
        name, options = "autosgm", {"beta": b, "gamma": rule.zero, "adaptive": False, "debias": False}
    else:
        name, options = "momentum", {"momentum": b, "dampening": b if rule.form == "average" else 0.0}
    if rule.preconditioner is not None:
        if rule.form == "plain":
            name, options = "rmsprop", {"alpha": FROZEN, "eps": 1e-30}
        else:
            name, options = "adam", {"betas": (b, FROZEN), "eps": 1e-30}
        if rule.decoupled:
            name = "adamw"
    decay = rule.coupled + rule.decoupled
    return name, {**options, "weight_decay": decay}


def run(rule: Rule, lr: float, curvatures: Tensor, steps: int) -> Tensor:
    """Train on 0.5 sum h_i w_i^2 from equal weights, in float64.

    Args:
        rule: The rule, run by the optimizer of the registry.
        lr: Learning rate.
        curvatures: The eigenvalues h, shape (count,).
        steps: Optimizer steps.

    Returns:
        The weights relative to those at the start, shape (steps + 1, count), shorter if they diverged before the end.
    """
    # A linear layer, because weight decay applies to matrices.
    layer = nn.Linear(1, len(curvatures), bias=False, dtype=torch.float64)
    name, options = optimizer_of(rule)
    optimizer: Optimizer = OPTIMIZERS.create(name, layer, lr=lr, **options)
    weight, start = layer.weight, 1.0
    if rule.preconditioner is not None:
        # So small that a second moment with a decay of 1 to the last digit does not notice any growth.
        start = 1e-9 * rule.preconditioner / max(1.0, float(curvatures.max()))
        _freeze(optimizer, weight, rule.preconditioner)
    slopes = curvatures[:, None]
    with torch.no_grad():
        weight.fill_(start)
        seen = [weight.detach().flatten().clone()]
        for _ in range(steps):
            weight.grad = slopes * weight
            optimizer.step()
            seen.append(weight.detach().flatten().clone())
            if not float(weight.abs().max()) < GROWTH * start:
                break
    return torch.stack(seen) / start


def _freeze(optimizer: Optimizer, weight: Tensor, preconditioner: float) -> None:
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    state = optimizer.state[weight]
    state["step"].fill_(SETTLED)
    state["exp_avg_sq" if "exp_avg_sq" in state else "square_avg"].fill_(preconditioner**2)


def measured_rate(rule: Rule, lr: float, curvatures: Tensor, steps: int = STEPS) -> float:
    """Factor per step of the slowest eigenvector, fitted to a run."""
    weights = run(rule, lr, curvatures, steps)
    if len(weights) < 6:  # so fast that the last step tells
        return float((weights[-1] / weights[-2]).abs().max())
    return fitted_rate(weights)


def measured_limit(rule: Rule, curvatures: Tensor) -> float:
    """Largest learning rate at which the weights do not grow, by bisection; the theory is not asked."""
    return bisect(lambda lr: measured_rate(rule, lr, curvatures) > 1, 1 / float(curvatures.max()))


def bisect(diverges: Callable[[float], bool], start: float) -> float:
    """The number at which `diverges` turns from false to true, to a millionth.

    Args:
        diverges: Called with positive numbers.
        start: Where to begin, by doubling and halving.
    """
    low = start
    while diverges(low):
        low /= 2
    high = 2 * low
    while not diverges(high):
        low, high = high, 2 * high
    while high > low * (1 + PRECISION):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if diverges(middle) else (middle, high)
    return math.sqrt(low * high)
