"""AdamW."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from optim.grouping import parameter_groups
from optim.references.adam import Adam, adam_direction
from optim.references.base import State
from optim.registry import OPTIMIZERS


class AdamW(Adam):
    """AdamW (arXiv 1711.05101): Adam with weight decay apart from the gradient.

        m, s as Adam's, from the gradient alone
        w <- (1 - lr * weight_decay) * w
        w <- w - lr * (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps)        in step t = 1, 2, ...

    Every weight decays at the same rate, however large its gradients are.

    Args:
        params: Tensors, or groups of them.
        lr: Learning rate, at least 0.
        betas: b1 and b2, each in [0, 1).
        eps: Added to the root, at least 0, in units of the gradient.
        weight_decay: Decoupled decay, at least 0; each step takes away the fraction lr * weight_decay.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, weight: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
        """One step."""
        weight *= 1 - group["lr"] * group["weight_decay"]
        weight -= group["lr"] * adam_direction(gradient, state, group)


@OPTIMIZERS.register
def reference_adamw(
    module: nn.Module,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Optimizer:
    """AdamW from scratch, to be read (optim/references/adamw.py).

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        betas: Decay rates of the averages of the gradient and of its square, each in [0, 1).
        eps: Added to the root of the second moment, at least 0, in units of the gradient.
        weight_decay: Decoupled decay of matrices, at least 0; each step takes away the fraction lr * weight_decay.

    Returns:
        An `optim.references.AdamW`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    return AdamW(parameter_groups(module, weight_decay), lr=lr, betas=betas, eps=eps)
