"""AdamW."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.common.linear_step import LinearStep, adam_step
from steepest.optim.classical.references.adam import Adam, adam_direction
from steepest.optim.classical.references.base import State
from steepest.optim.core.algorithms import AdamOptions
from steepest.optim.core.grouping import parameter_groups
from steepest.optim.registry import OPTIMIZERS


class AdamW(Adam):
    """AdamW (arXiv 1711.05101): Adam with weight decay apart from the gradient.

        m, s as Adam's, from the gradient alone
        w <- (1 - lr * weight_decay) * w
        w <- w - lr * (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps)        in step t = 1, 2, ...

    Every weight decays at the same rate, however large its gradients are.
    """

    def linear_step(self, group: dict[str, Any], state: State) -> LinearStep:
        """While s stands still."""
        return adam_step(group, {**state, "exp_avg_sq": state["squares"]}, decoupled=True)

    def update(self, weight: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
        """One step."""
        weight *= 1 - group["lr"] * group["weight_decay"]
        weight -= group["lr"] * adam_direction(gradient, state, group)


@OPTIMIZERS.register
def reference_adamw(module: nn.Module, lr: float = 1e-3, *, own: AdamOptions, weight_decay: float = 0.01) -> Optimizer:
    """AdamW from scratch, to be read (optim/classical/references/adamw.py).

    Args:
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        weight_decay: Decoupled decay of matrices, at least 0; each step takes away the fraction lr * weight_decay.

    Returns:
        An `steepest.optim.classical.references.AdamW`.
    """
    return AdamW(parameter_groups(module, weight_decay), lr=lr, **vars(own))
