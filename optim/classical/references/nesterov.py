"""Nesterov's momentum."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.common.linear_step import LinearStep, momentum_step
from steepest.optim.checks import check_number
from steepest.optim.classical.references.base import Reference, State
from steepest.optim.core.grouping import parameter_groups
from steepest.optim.core.options import Options
from steepest.optim.registry import OPTIMIZERS


class NesterovOptions(Options):
    """The velocity.

    Attributes:
        momentum: How much of the velocity stays from step to step, in (0, 1).
    """

    momentum: float = 0.9


class Nesterov(Reference):
    """Nesterov's momentum (Nesterov 1983; in this form Sutskever et al. 2013).

        g <- gradient + weight_decay * w
        v <- momentum * v + g
        w <- w - lr * (g + momentum * v)

    The textbook takes the gradient at a look-ahead point, x - lr * momentum * v. The weights kept here are that point,
    so the model is evaluated where the gradient is wanted; x itself is w + lr * momentum * v. On a quadratic of
    curvature h it is stable for lr below (2 + 2 * momentum) / (h * (1 + 2 * momentum)).
    """

    options = NesterovOptions

    def check(self, group: dict[str, Any]) -> None:
        """Refuse options out of range."""
        check_number("momentum", group["momentum"], high=1.0, include_low=False)

    def linear_step(self, group: dict[str, Any], state: State) -> LinearStep:
        """All of it: there is no preconditioner."""
        return momentum_step(group["momentum"], nesterov=True, decay=group["weight_decay"])

    def initial_state(self, weight: Tensor, group: dict[str, Any]) -> State:
        """No velocity yet."""
        return {"velocity": torch.zeros_like(weight)}

    def update(self, weight: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
        """One step."""
        velocity = state["velocity"]
        gradient = gradient + group["weight_decay"] * weight
        velocity *= group["momentum"]
        velocity += gradient
        weight -= group["lr"] * (gradient + group["momentum"] * velocity)


@OPTIMIZERS.register
def reference_nesterov(
    module: nn.Module, lr: float = 0.05, *, own: NesterovOptions, weight_decay: float = 0.0
) -> Optimizer:
    """Nesterov's momentum from scratch, to be read (optim/classical/references/nesterov.py).

    Args:
        weight_decay: Coupled decay of matrices, at least 0.

    Returns:
        An `steepest.optim.classical.references.Nesterov`.
    """
    return Nesterov(parameter_groups(module, weight_decay), lr=lr, **vars(own))
