"""Lion, the sign of an interpolated momentum."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.optim.checks import check_betas
from steepest.optim.core.algorithm import Algorithm, State, Statistics, register_algorithm
from steepest.optim.core.composite import composite_of
from steepest.optim.core.options import Options, SharedOptions
from steepest.optim.core.width_scaling import WidthRule, adaptive_factor
from steepest.optim.registry import OPTIMIZERS


class LionOptions(Options):
    """The average gradient of Lion.

    Attributes:
        betas: Weight of the average in the direction and its decay rate, each in [0, 1).
    """

    betas: tuple[float, float] = (0.9, 0.99)


@register_algorithm
class Lion(Algorithm):
    """w <- (1 - lr * weight_decay) * w - lr * sign(b1 * m + (1 - b1) * g), then m <- b2 * m + (1 - b2) * g."""

    name = "lion"
    options = LionOptions

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse betas outside [0, 1)."""
        check_betas(group["betas"])

    def width_rule(self, options: Mapping[str, Any], weight: Tensor) -> WidthRule:
        """That of steps of one size in each coordinate."""
        return adaptive_factor

    def initial_state(self, weight: Tensor, group: Mapping[str, Any]) -> State:
        """The average gradient, zero."""
        return {"exp_avg": torch.zeros_like(weight)}

    def update(
        self,
        group: Mapping[str, Any],
        weights: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        statistics: Statistics | None,
    ) -> None:
        """One step."""
        lr, (beta1, beta2) = group["lr"], group["betas"]
        averages = [state["exp_avg"] for state in states]
        directions = torch._foreach_mul(averages, beta1)
        torch._foreach_add_(directions, gradients, alpha=1 - beta1)
        torch._foreach_sign_(directions)
        if group["weight_decay"] != 0:
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        torch._foreach_add_(weights, directions, alpha=-lr)
        torch._foreach_mul_(averages, beta2)
        torch._foreach_add_(averages, gradients, alpha=1 - beta2)


@OPTIMIZERS.register
def lion(
    module: nn.Module, lr: float = 1e-4, *, own: LionOptions, weight_decay: float = 0.0, shared: SharedOptions
) -> Optimizer:
    """Lion (arXiv 2302.06675): steps of the sign of the momentum, every coordinate by lr; one state tensor.

    Args:
        lr: Learning rate, at least 0: the size of a step in each coordinate. The paper advises 3 to 10 times less than
            for AdamW, and as much more decay.
        weight_decay: Decoupled decay of matrices, at least 0; each step takes away the fraction lr * weight_decay.

    Returns:
        A `Composite` of one algorithm.
    """
    return composite_of(module, "lion", lr, weight_decay, own, shared)
