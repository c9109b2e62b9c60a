"""RMSprop."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optim.checks import check_number
from optim.grouping import parameter_groups
from optim.references.base import Reference, State
from optim.registry import OPTIMIZERS


class RMSprop(Reference):
    """RMSprop (Tieleman and Hinton 2012).

        g <- gradient + weight_decay * w
        s <- alpha * s + (1 - alpha) * g^2
        w <- w - lr * g / (sqrt(s) + eps)

    `eps` is outside the root, PyTorch's convention; other texts write sqrt(s + eps), where the same number acts far
    more strongly. For a steady gradient the step tends to lr * sign(g).

    Args:
        params: Tensors, or groups of them.
        lr: Learning rate, at least 0.
        alpha: Decay rate of the average of squared gradients, in [0, 1).
        eps: Added to the root, at least 0, in units of the gradient.
        weight_decay: Coupled decay, at least 0.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay)

    def check(self, group: dict[str, Any]) -> None:
        """Refuse options out of range."""
        check_number("alpha", group["alpha"], high=1.0)
        check_number("eps", group["eps"])

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
    module: nn.Module, lr: float = 1e-3, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizer:
    """RMSprop from scratch, to be read (optim/references/rmsprop.py).

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        alpha: Decay rate of the average of squared gradients, in [0, 1).
        eps: Added to the root (outside it), at least 0, in units of the gradient.
        weight_decay: Coupled decay of matrices, at least 0.

    Returns:
        An `optim.references.RMSprop`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    return RMSprop(parameter_groups(module, weight_decay), lr=lr, alpha=alpha, eps=eps)
