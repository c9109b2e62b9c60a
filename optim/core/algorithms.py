"""SGD and AdamW as algorithms of a `Composite`, for what stands beside the matrices: torch.optim's, to the bit."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw as torch_adamw

from steepest.common import linear_step as linear
from steepest.common.linear_step import LinearStep
from steepest.optim.checks import check_betas, check_number
from steepest.optim.core.algorithm import Algorithm, State, Statistics, register_algorithm
from steepest.optim.core.implementation import FUSED_DEVICES
from steepest.optim.core.layout import in_layout_of, is_dense, is_laid_out_as, lay_out_state
from steepest.optim.core.options import Options
from steepest.optim.core.width_scaling import WidthRule, adaptive_factor, gradient_descent_factor


class MomentumOptions(Options):
    """The velocity of SGD.

    Attributes:
        momentum: How much of the velocity stays from step to step, in [0, 1).
        nesterov: Use Nesterov's form of the velocity, gradient + momentum * velocity.
        dampening: How much of the new gradient is left out, in [0, 1]; equal to `momentum` the velocity is an
            exponential moving average. (The first velocity is the whole gradient.)
    """

    momentum: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0


class AdamOptions(Options):
    """Adam's averages.

    Attributes:
        betas: Decay rates of the averages of the gradient and of its square, each in [0, 1).
        eps: Added to the root of the second moment, at least 0, in units of the gradient.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


class AMSGradOptions(AdamOptions):
    """The same with AMSGrad.

    Attributes:
        amsgrad: Divide by the largest second moment so far (arXiv 1904.09237).
    """

    amsgrad: bool = False


class FusedAdamOptions(AMSGradOptions):
    """The same with the implementation.

    Attributes:
        fused: As in torch.optim.AdamW; None leaves the choice to torch.
    """

    fused: bool | None = None


@register_algorithm
class SGD(Algorithm):
    """Gradient descent with momentum: v <- momentum v + (1 - dampening) g, w <- w - lr v; weight decay is coupled."""

    name = "sgd"
    options = MomentumOptions

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse momentum out of range, and Nesterov's form without momentum or with dampening."""
        check_momentum(group)

    def width_rule(self, options: Mapping[str, Any], weight: Tensor) -> WidthRule:
        """That of gradient descent."""
        return gradient_descent_factor

    def linear_step(self, group: Mapping[str, Any], state: State) -> LinearStep:
        """That of torch.optim.SGD."""
        return linear.sgd_step(group)

    def initial_state(self, weight: Tensor, group: Mapping[str, Any]) -> State:
        """The velocity, where there is momentum."""
        return momentum_state(weight, group)

    def update(
        self,
        group: Mapping[str, Any],
        weights: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        statistics: Statistics | None,
    ) -> None:
        """One step."""
        sgd_step(group, weights, gradients, states)


@register_algorithm
class AdamW(Algorithm):
    """Adam with decoupled weight decay (arXiv 1711.05101), by torch's own kernels."""

    name = "adamw"
    options = FusedAdamOptions

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse betas and eps out of range, and a fused step where there is none."""
        check_adam(group)

    def width_rule(self, options: Mapping[str, Any], weight: Tensor) -> WidthRule:
        """That of steps of one size in each coordinate."""
        return adaptive_factor

    def linear_step(self, group: Mapping[str, Any], state: State) -> LinearStep:
        """That of torch.optim.AdamW."""
        return linear.adam_step(group, state, decoupled=True)

    def initial_state(self, weight: Tensor, group: Mapping[str, Any]) -> State:
        """The number of steps and the two moments, under torch's names."""
        return adam_state(weight, group)

    def update(
        self,
        group: Mapping[str, Any],
        weights: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        statistics: Statistics | None,
    ) -> None:
        """One step."""
        adamw_step(group, weights, gradients, states)


def check_momentum(group: Mapping[str, Any]) -> None:
    """Refuse options of SGD that are out of range or do not go together.

    Raises:
        ValueError: naming the option.
    """
    check_number("momentum", group["momentum"], high=1.0)
    check_number("dampening", group["dampening"], high=1.0, include_high=True)
    if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
        raise ValueError(
            f"nesterov needs momentum above 0 and dampening 0, not momentum {group['momentum']!r} and dampening "
            f"{group['dampening']!r}"
        )


def momentum_state(weight: Tensor, group: Mapping[str, Any]) -> State:
    """State of `average`: the velocity, and with dampening the number of steps, since it spares the first one."""
    if group["momentum"] == 0:
        return {}
    state = {"momentum_buffer": torch.zeros_like(weight)}
    # A counter on the CPU: looking at it makes no device wait.
    return {**state, "step": torch.zeros((), dtype=torch.int64)} if group["dampening"] else state


def average(group: Mapping[str, Any], gradients: list[Tensor], states: list[State]) -> list[Tensor]:
    """Take gradients up into the velocities, and return the direction of SGD's step, before the learning rate.

    Raises:
        ValueError: if momentum or dampening was 0 when the state was made and is not any more.
    """
    momentum, dampening = group["momentum"], group["dampening"]
    if momentum == 0:
        return gradients
    needed = {"momentum_buffer", "step"} if dampening else {"momentum_buffer"}
    if not needed <= states[0].keys():
        raise ValueError("momentum and dampening cannot leave 0 during a run: start from a small value, such as 1e-3")
    buffers = [state["momentum_buffer"] for state in states]
    torch._foreach_mul_(buffers, momentum)
    if dampening:
        # torch's first velocity is the whole gradient.
        for state, buffer, gradient in zip(states, buffers, gradients, strict=True):
            buffer.add_(gradient, alpha=1 - dampening if int(state["step"]) else 1)
            state["step"] += 1
    else:
        torch._foreach_add_(buffers, gradients)
    return list(torch._foreach_add(gradients, buffers, alpha=momentum)) if group["nesterov"] else buffers


def sgd_step(group: Mapping[str, Any], weights: list[Tensor], gradients: list[Tensor], states: list[State]) -> None:
    """Change weights as torch.optim.SGD does."""
    if group["weight_decay"] != 0:
        gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
    torch._foreach_add_(weights, average(group, gradients, states), alpha=-group["lr"])


def check_adam(group: Mapping[str, Any]) -> None:
    """Refuse options of Adam that are out of range or do not go together.

    Raises:
        ValueError: naming the option.
    """
    check_betas(group["betas"])
    check_number("eps", group["eps"])
    if group["fused"]:
        for parameter in group["params"]:
            if parameter.device.type not in FUSED_DEVICES:
                raise ValueError(f"fused=True is not possible on device {parameter.device.type!r}; use fused=False")
            if not is_dense(parameter):
                raise ValueError("fused=True is not possible for a parameter with gaps in memory; use fused=False")


def adam_state(weight: Tensor, group: Mapping[str, Any]) -> State:
    """The number of steps and Adam's moments."""
    # Fused kernels count on the device, the others on the CPU; float32 as in torch.
    device = weight.device if group["fused"] else "cpu"
    state = {
        "step": torch.zeros((), dtype=torch.float32, device=device),
        "exp_avg": torch.zeros_like(weight),
        "exp_avg_sq": torch.zeros_like(weight),
    }
    return {**state, "max_exp_avg_sq": torch.zeros_like(weight)} if group["amsgrad"] else state


def adamw_step(group: Mapping[str, Any], weights: list[Tensor], gradients: list[Tensor], states: list[State]) -> None:
    """Change weights as torch.optim.AdamW does, with group["fused"] as there: None leaves the choice to torch."""
    if group["fused"]:
        gradients = in_layout_of(weights, gradients)
        for weight, state in zip(weights, states, strict=True):
            if not is_laid_out_as(weight, state["exp_avg"]):
                lay_out_state(state, weight)
    torch_adamw(
        weights,
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
        [state["step"] for state in states],
        foreach=None,
        fused=group["fused"],
        amsgrad=group["amsgrad"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
