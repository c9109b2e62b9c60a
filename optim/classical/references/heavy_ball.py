"""Heavy-ball momentum."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.common.linear_step import LinearStep, momentum_step
from steepest.optim.checks import check_number
from steepest.optim.classical.references.base import Reference, State
from steepest.optim.core.grouping import parameter_groups
from steepest.optim.core.options import Options
from steepest.optim.registry import OPTIMIZERS


class HeavyBallOptions(Options):
    """The velocity.

    Attributes:
        momentum: How much of the velocity stays from step to step, in [0, 1).
        dampening: How much of the new gradient is left out, in [0, 1]; equal to `momentum` the velocity is an average.
            Not in the first step, as in PyTorch, so that an average starts at a gradient and not at zero.
    """

    momentum: float = 0.9
    dampening: float = 0.0


class HeavyBall(Reference):
    """Momentum (Polyak 1964).

        g <- gradient + weight_decay * w
        v <- momentum * v + (1 - dampening) * g        (v <- g in the first step)
        w <- w - lr * v

    A steady gradient is amplified (1 - dampening) / (1 - momentum) times: with dampening = momentum, v is an
    exponential moving average. On a quadratic of curvature h it is stable for lr below
    (2 + 2 * momentum) / (h * (1 - dampening)).
    """

    options = HeavyBallOptions

    def check(self, group: dict[str, Any]) -> None:
        """Refuse options out of range."""
        check_number("momentum", group["momentum"], high=1.0)
        check_number("dampening", group["dampening"], high=1.0, include_high=True)

    def linear_step(self, group: dict[str, Any], state: State) -> LinearStep:
        """All of it: there is no preconditioner."""
        return momentum_step(group["momentum"], group["dampening"], decay=group["weight_decay"])

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
    module: nn.Module, lr: float = 0.05, *, own: HeavyBallOptions, weight_decay: float = 0.0
) -> Optimizer:
    """Heavy-ball momentum from scratch, to be read (optim/classical/references/heavy_ball.py).

    Args:
        weight_decay: Coupled decay of matrices, at least 0.

    Returns:
        An `steepest.optim.classical.references.HeavyBall`.
    """
    return HeavyBall(parameter_groups(module, weight_decay), lr=lr, **vars(own))
