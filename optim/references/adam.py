"""Adam."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optim.checks import check_betas, check_number
from optim.grouping import parameter_groups
from optim.references.base import Reference, State
from optim.registry import OPTIMIZERS


class Adam(Reference):
    """Adam (arXiv 1412.6980): RMSprop with momentum and bias correction.

        g <- gradient + weight_decay * w
        m <- b1 * m + (1 - b1) * g
        s <- b2 * s + (1 - b2) * g^2
        w <- w - lr * (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps)        in step t = 1, 2, ...

    The averages start at zero; dividing by 1 - b^t makes them averages of the t gradients seen. So the first step is
    lr * sign(g), up to eps. With sqrt(s) + eps held at P, a quadratic of curvature h is stable for lr below
    (2 + 2 * b1) / (1 - b1) * P / h.

    Args:
        params: Tensors, or groups of them.
        lr: Learning rate, at least 0.
        betas: b1 and b2, each in [0, 1).
        eps: Added to the root, at least 0, in units of the gradient.
        weight_decay: Coupled decay, at least 0; divided like the gradient, it acts least where gradients are large.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def check(self, group: dict[str, Any]) -> None:
        """Refuse options out of range."""
        check_betas(group["betas"])
        check_number("eps", group["eps"])

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
def reference_adam(
    module: nn.Module,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adam from scratch, to be read (optim/references/adam.py).

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        betas: Decay rates of the averages of the gradient and of its square, each in [0, 1).
        eps: Added to the root of the second moment, at least 0, in units of the gradient.
        weight_decay: Coupled decay of matrices, at least 0; `reference_adamw` decouples it.

    Returns:
        An `optim.references.Adam`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    return Adam(parameter_groups(module, weight_decay), lr=lr, betas=betas, eps=eps)
