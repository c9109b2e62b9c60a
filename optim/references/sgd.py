"""Gradient descent."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from optim.grouping import parameter_groups
from optim.references.base import Reference, State
from optim.registry import OPTIMIZERS


class SGD(Reference):
    """Gradient descent on mini-batches (Robbins and Monro 1951).

        g <- gradient + weight_decay * w
        w <- w - lr * g

    On a quadratic of curvature h it is stable for lr below 2 / (h + weight_decay).

    Args:
        params: Tensors, or groups of them.
        lr: Learning rate, at least 0.
        weight_decay: Coupled decay, at least 0.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.1, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)

    def initial_state(self, weight: Tensor, group: dict[str, Any]) -> State:
        """Nothing is remembered."""
        return {}

    def update(self, weight: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
        """One step."""
        gradient = gradient + group["weight_decay"] * weight
        weight -= group["lr"] * gradient


@OPTIMIZERS.register
def reference_sgd(module: nn.Module, lr: float = 0.1, weight_decay: float = 0.0) -> Optimizer:
    """Gradient descent from scratch, to be read (optim/references/sgd.py): w <- w - lr * g.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0.
        weight_decay: Coupled decay of matrices, at least 0.

    Returns:
        An `optim.references.SGD`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    return SGD(parameter_groups(module, weight_decay), lr=lr)
