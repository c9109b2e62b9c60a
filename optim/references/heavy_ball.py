"""Heavy-ball momentum."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optim.checks import check_number
from optim.grouping import parameter_groups
from optim.references.base import Reference, State
from optim.registry import OPTIMIZERS


class HeavyBall(Reference):
    """Momentum (Polyak 1964).

        g <- gradient + weight_decay * w
        v <- momentum * v + (1 - dampening) * g        (v <- g in the first step)
        w <- w - lr * v

    A steady gradient is amplified (1 - dampening) / (1 - momentum) times: with dampening = momentum, v is an
    exponential moving average. On a quadratic of curvature h it is stable for lr below
    (2 + 2 * momentum) / (h * (1 - dampening)).

    Args:
        params: Tensors, or groups of them.
        lr: Learning rate, at least 0.
        momentum: How much of the velocity stays from step to step, in [0, 1).
        dampening: How much of the new gradient is left out, in [0, 1]; not in the first step, as in PyTorch, so that
            an average starts at a gradient and not at zero.
        weight_decay: Coupled decay, at least 0.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.05,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay)

    def check(self, group: dict[str, Any]) -> None:
        """Refuse options out of range."""
        check_number("momentum", group["momentum"], high=1.0)
        check_number("dampening", group["dampening"], high=1.0, include_high=True)

    def initial_state(self, weight: Tensor, group: dict[str, Any]) -> State:
        """No velocity yet."""
        return {"step": torch.zeros(()), "velocity": torch.zeros_like(weight)}

    def update(self, weight: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
        """One step."""
        state["step"] += 1
        velocity = state["velocity"]
        gradient = gradient + group["weight_decay"] * weight
        share = 1.0 if state["step"] == 1 else 1.0 - group["dampening"]
        velocity *= group["momentum"]
        velocity += share * gradient
        weight -= group["lr"] * velocity


@OPTIMIZERS.register(aliases=("reference_heavy_ball",))
def reference_momentum(
    module: nn.Module,
    lr: float = 0.05,
    momentum: float = 0.9,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Heavy-ball momentum from scratch, to be read (optim/references/heavy_ball.py).

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0.
        momentum: How much of the velocity stays from step to step, in [0, 1).
        dampening: How much of the new gradient is left out, in [0, 1]; equal to `momentum` the velocity is an average.
        weight_decay: Coupled decay of matrices, at least 0.

    Returns:
        An `optim.references.HeavyBall`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    return HeavyBall(parameter_groups(module, weight_decay), lr=lr, momentum=momentum, dampening=dampening)
