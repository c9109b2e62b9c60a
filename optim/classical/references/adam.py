"""Adam."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.common.linear_step import LinearStep, adam_step
from steepest.optim.checks import check_betas, check_number
from steepest.optim.classical.references.base import Reference, State
from steepest.optim.core.algorithms import AdamOptions
from steepest.optim.core.grouping import parameter_groups
from steepest.optim.registry import OPTIMIZERS


class Adam(Reference):
    """Adam (arXiv 1412.6980): RMSprop with momentum and bias correction; b1 and b2 are its betas.

        g <- gradient + weight_decay * w
        m <- b1 * m + (1 - b1) * g
        s <- b2 * s + (1 - b2) * g^2
        w <- w - lr * (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps)        in step t = 1, 2, ...

    The averages start at zero; dividing by 1 - b^t makes them averages of the t gradients seen. So the first step is
    lr * sign(g), up to eps. With sqrt(s) + eps held at P, a quadratic of curvature h is stable for lr below
    (2 + 2 * b1) / (1 - b1) * P / h.
    """

    options = AdamOptions

    def check(self, group: dict[str, Any]) -> None:
        """Refuse options out of range."""
        check_betas(group["betas"])
        check_number("eps", group["eps"])

    def linear_step(self, group: dict[str, Any], state: State) -> LinearStep:
        """While s stands still."""
        return adam_step(group, {**state, "exp_avg_sq": state["squares"]}, decoupled=False)

    def initial_state(self, weight: Tensor, group: dict[str, Any]) -> State:
        """No gradients yet."""
        return {"step": torch.zeros(()), "mean": torch.zeros_like(weight), "squares": torch.zeros_like(weight)}

    def update(self, weight: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
        """One step."""
        gradient = gradient + group["weight_decay"] * weight
        weight -= group["lr"] * adam_direction(gradient, state, group)


def adam_direction(gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor:
    """Take up a gradient into the averages and return what lr multiplies."""
    state["step"] += 1
    step, mean, squares = state["step"].item(), state["mean"], state["squares"]
    b1, b2 = group["betas"]
    mean *= b1
    mean += (1 - b1) * gradient
    squares *= b2
    squares += (1 - b2) * gradient**2
    return (mean / (1 - b1**step)) / ((squares / (1 - b2**step)).sqrt() + group["eps"])


@OPTIMIZERS.register
def reference_adam(module: nn.Module, lr: float = 1e-3, *, own: AdamOptions, weight_decay: float = 0.0) -> Optimizer:
    """Adam from scratch, to be read (optim/classical/references/adam.py).

    Args:
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        weight_decay: Coupled decay of matrices, at least 0; divided like the gradient, it acts least where gradients
            are large. `reference_adamw` decouples it.

    Returns:
        An `steepest.optim.classical.references.Adam`.
    """
    return Adam(parameter_groups(module, weight_decay), lr=lr, **vars(own))
