"""Lion, the sign of an interpolated momentum."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optim.algorithm import Algorithm, State, Statistics, register_algorithm
from optim.checks import check_betas, check_number
from optim.composite import Composite
from optim.grouping import algorithm_groups
from optim.registry import OPTIMIZERS
from optim.rounding import Rounding
from optim.rules import ParameterRule
from optim.width_scaling import WidthRule, adaptive_factor


@register_algorithm
class Lion(Algorithm):
    """w <- (1 - lr * weight_decay) * w - lr * sign(b1 * m + (1 - b1) * g), then m <- b2 * m + (1 - b2) * g."""

    name = "lion"
    defaults: ClassVar[Mapping[str, Any]] = {"betas": (0.9, 0.99)}

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
    module: nn.Module,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
    rounding: Rounding = "nearest",
) -> Optimizer:
    """Lion (arXiv 2302.06675): steps of the sign of the momentum, every coordinate by lr; one state tensor.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0: the size of a step in each coordinate. The paper advises 3 to 10 times less than
            for AdamW, and as much more decay.
        betas: Weight of the average in the direction and its decay rate, each in [0, 1).
        weight_decay: Decoupled decay of matrices, at least 0; each step takes away the fraction lr * weight_decay.
        rules: Exceptions for chosen parameters (optim/rules.py), the last that sets something wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.
        rounding: How 16-bit parameters take up a step: "nearest", "kahan" or "stochastic" (optim/rounding.py).

    Returns:
        A `Composite` of one algorithm.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    check_number("lr", lr)
    check_number("weight_decay", weight_decay)
    check_betas(betas)
    groups = algorithm_groups(
        module,
        "lion",
        lr=lr,
        weight_decay=weight_decay,
        options={"lion": {"betas": tuple(betas)}},
        rules=rules,
        layer_decay=layer_decay,
    )
    return Composite(groups, rounding)
