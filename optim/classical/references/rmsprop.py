"""RMSprop."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.common.linear_step import LinearStep, rmsprop_step
from steepest.optim.checks import check_number
from steepest.optim.classical.references.base import Reference, State
from steepest.optim.core.grouping import parameter_groups
from steepest.optim.core.options import Options
from steepest.optim.registry import OPTIMIZERS


class RMSpropOptions(Options):
    """The average of squares.

    Attributes:
        alpha: Decay rate of the average of squared gradients, in [0, 1).
        eps: Added to the root (outside it), at least 0, in units of the gradient.
    """

    alpha: float = 0.99
    eps: float = 1e-8


class RMSprop(Reference):
    """RMSprop (Tieleman and Hinton 2012).

        g <- gradient + weight_decay * w
        s <- alpha * s + (1 - alpha) * g^2
        w <- w - lr * g / (sqrt(s) + eps)

    `eps` is outside the root, PyTorch's convention; other texts write sqrt(s + eps), where the same number acts far
    more strongly. For a steady gradient the step tends to lr * sign(g).
    """

    options = RMSpropOptions

    def check(self, group: dict[str, Any]) -> None:
        """Refuse options out of range."""
        check_number("alpha", group["alpha"], high=1.0)
        check_number("eps", group["eps"])

    def linear_step(self, group: dict[str, Any], state: State) -> LinearStep:
        """While s stands still."""
        return rmsprop_step(group, {"square_avg": state["squares"]})

    def initial_state(self, weight: Tensor, group: dict[str, Any]) -> State:
        """No squares yet."""
        return {"squares": torch.zeros_like(weight)}

    def update(self, weight: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
        """One step."""
        squares, alpha = state["squares"], group["alpha"]
        gradient = gradient + group["weight_decay"] * weight
        squares *= alpha
        squares += (1 - alpha) * gradient**2
        weight -= group["lr"] * gradient / (squares.sqrt() + group["eps"])


@OPTIMIZERS.register
def reference_rmsprop(
    module: nn.Module, lr: float = 1e-3, *, own: RMSpropOptions, weight_decay: float = 0.0
) -> Optimizer:
    """RMSprop from scratch, to be read (optim/classical/references/rmsprop.py).

    Args:
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        weight_decay: Coupled decay of matrices, at least 0.

    Returns:
        An `steepest.optim.classical.references.RMSprop`.
    """
    return RMSprop(parameter_groups(module, weight_decay), lr=lr, **vars(own))
