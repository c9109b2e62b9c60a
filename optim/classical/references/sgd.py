"""Gradient descent."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.common.linear_step import LinearStep
from steepest.optim.classical.references.base import Reference, State
from steepest.optim.core.grouping import parameter_groups
from steepest.optim.registry import OPTIMIZERS


class SGD(Reference):
    """Gradient descent on mini-batches (Robbins and Monro 1951).

        g <- gradient + weight_decay * w
        w <- w - lr * g

    On a quadratic of curvature h it is stable for lr below 2 / (h + weight_decay).
    """

    def linear_step(self, group: dict[str, Any], state: State) -> LinearStep:
        """All of it: there is no preconditioner."""
        return LinearStep(decay=group["weight_decay"])

    def initial_state(self, weight: Tensor, group: dict[str, Any]) -> State:
        """Nothing is remembered."""
        return {}

    def update(self, weight: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
        """One step."""
        gradient = gradient + group["weight_decay"] * weight
        weight -= group["lr"] * gradient


@OPTIMIZERS.register
def reference_sgd(module: nn.Module, lr: float = 0.1, weight_decay: float = 0.0) -> Optimizer:
    """Gradient descent from scratch, to be read (optim/classical/references/sgd.py): w <- w - lr * g.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0.
        weight_decay: Coupled decay of matrices, at least 0.

    Returns:
        An `steepest.optim.classical.references.SGD`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    return SGD(parameter_groups(module, weight_decay), lr=lr)
