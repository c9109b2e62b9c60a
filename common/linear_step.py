"""What a step does to a change of the gradient while its preconditioner stands still, as the optimizer says it itself.

An optimizer says so by a method `linear_step(group, state) -> LinearStep`; `TORCH` speaks for PyTorch's. What looks at
an optimizer from outside, such as its stability limit, asks `linear_step_of` and knows no class by name.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Group = Mapping[str, Any]
State = Mapping[str, Any]


class UnknownLimitError(ValueError):
    """An optimizer's step is not linear in the gradient, or not known to be; the message says why."""


@dataclass(frozen=True)
class LinearStep:
    """The step of a parameter: w <- (1 - decoupled) w - lr D u, with u_t = pole u_{t-1} + now g_t + before g_{t-1}.

    Attributes:
        pole: How much of the direction stays from step to step, in [0, 1).
        now: Weight of the newest gradient.
        before: Weight of the gradient before it; 0 for heavy-ball momentum.
        decay: Coupled weight decay: g is the gradient plus decay w.
        decoupled: Share of the weights that each step takes away.
        preconditioner: D, a number or a tensor like the parameter; 0 before there are squares to divide by.
    """

    pole: float = 0.0
    now: float = 1.0
    before: float = 0.0
    decay: float = 0.0
    decoupled: float = 0.0
    preconditioner: Tensor | float = 1.0

    @property
    def limit(self) -> float:
        """Largest stable curvature times lr D.

        The weights flip from step to step there; with a positive `before` they may turn in a spiral earlier.
        """
        flip = self.now - self.before
        limit = (2 - self.decoupled) * (1 + self.pole) / flip if flip > 0 else math.inf
        if self.before > 0:
            limit = min(limit, (1 - (1 - self.decoupled) * self.pole) / self.before)
        return limit


def momentum_step(momentum: float, dampening: float = 0.0, nesterov: bool = False, **others: Any) -> LinearStep:
    """That of SGD with momentum; with dampening = momentum the velocity is an average.

    Args:
        momentum: In [0, 1).
        dampening: In [0, 1]; 0 with `nesterov`.
        nesterov: Nesterov's form.
        others: Decay and preconditioner.
    """
    if nesterov:
        return LinearStep(momentum, 1 + momentum, -momentum, **others)
    return LinearStep(momentum, 1 - dampening, **others)


def filter_step(pole: float, zero: float, **others: Any) -> LinearStep:
    """That of the filter (1 - b) / (1 - c) (z - c) / (z - b), which has no gain.

    Args:
        pole: b, in [0, 1).
        zero: c, at most b; below 0 it smooths more.
        others: Decay and preconditioner.
    """
    now = (1 - pole) / (1 - zero)
    return LinearStep(pole, now, -zero * now, **others)


def sgd_step(group: Group) -> LinearStep:
    """That of a group of SGD, which ignores dampening where there is no momentum."""
    momentum = group["momentum"]
    dampening = group["dampening"] if momentum else 0.0
    return momentum_step(momentum, dampening, bool(group["nesterov"]), decay=group["weight_decay"])


def adam_step(group: Group, state: State, decoupled: bool) -> LinearStep:
    """That of Adam, and with decoupled decay of AdamW; states under PyTorch's names."""
    (beta1, beta2), decay = map(float, group["betas"]), float(group["weight_decay"])
    preconditioner: Tensor | float = 0.0
    if "exp_avg_sq" in state:
        squares = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
        step = torch.as_tensor(state["step"]).to(squares.device, torch.float64)
        first, second = (1 - beta1**step).to(squares.dtype), (1 - beta2**step).to(squares.dtype)
        preconditioner = 1 / (((squares / second).sqrt() + group["eps"]) * first)
    return momentum_step(
        beta1,
        dampening=beta1,
        decay=0.0 if decoupled else decay,
        decoupled=float(group["lr"]) * decay if decoupled else 0.0,
        preconditioner=preconditioner,
    )


def rmsprop_step(group: Group, state: State) -> LinearStep:
    """That of RMSprop."""
    preconditioner: Tensor | float = 0.0
    if "square_avg" in state:
        squares = state["square_avg"]
        if group.get("centered"):
            squares = squares - state["grad_avg"].square()
        preconditioner = 1 / (squares.sqrt() + group["eps"])
    return momentum_step(group.get("momentum", 0.0), decay=group["weight_decay"], preconditioner=preconditioner)


def adagrad_step(group: Group, state: State) -> LinearStep:
    """That of Adagrad."""
    preconditioner: Tensor | float = 0.0
    if "sum" in state:
        slowed = 1 + (float(state["step"]) - 1) * group["lr_decay"]
        preconditioner = 1 / ((state["sum"].sqrt() + group["eps"]) * slowed)
    return LinearStep(decay=group["weight_decay"], preconditioner=preconditioner)


TORCH: dict[type[Optimizer], Callable[[Group, State], LinearStep]] = {
    torch.optim.SGD: lambda group, state: sgd_step(group),
    torch.optim.Adam: lambda group, state: adam_step(group, state, bool(group.get("decoupled_weight_decay"))),
    torch.optim.AdamW: lambda group, state: adam_step(group, state, decoupled=True),
    torch.optim.RMSprop: rmsprop_step,
    torch.optim.Adagrad: adagrad_step,
}


def linear_step_of(optimizer: Optimizer, group: Group, state: State) -> LinearStep:
    """The linear step of a parameter of an optimizer.

    Args:
        optimizer: Any.
        group: Its group; one as it was in an earlier step will do.
        state: Its state.

    Raises:
        UnknownLimitError: if the step is not linear, or not known to be.
    """
    own = type(optimizer)
    known = next((base for base in own.__mro__ if base in TORCH or "linear_step" in vars(base)), None)
    if known is None:
        raise UnknownLimitError(f"no stability limit is known for {own.__name__}")
    check_steps_alike(own, known)
    if known in TORCH:
        return TORCH[known](group, state)
    return optimizer.linear_step(group, state)  # pyright: ignore[reportAttributeAccessIssue]


def check_steps_alike(own: type, known: type) -> None:
    """Refuse a class that is derived from one whose step is known and steps in its own way: it is another optimizer.

    Raises:
        UnknownLimitError: naming the method.
    """
    for method in ("step", "update"):
        if _plain(own, method) is not _plain(known, method):
            raise UnknownLimitError(f"{own.__name__} has a {method} of its own, whose limit is not known")


def _plain(owner: type, method: str) -> Any:
    function = getattr(owner, method, None)
    return None if function is None else inspect.unwrap(function)  # torch.optim wraps `step` to profile it
