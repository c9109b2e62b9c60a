"""The largest curvature at which an optimizer is stable, from its options and its state.

Every rule here is linear in the gradient while its preconditioner D stands still: the weights move by
-lr D F(gradients so far), F a filter such as momentum. On a quadratic of curvature h they come to the edge of stability
when they flip sign from step to step, where F is a plain factor f: at h lr D = 2 / f, the rule's limit. Decay that is
coupled adds to h; decoupled decay w takes lr w from the 2. Groups may differ in all of it: stable is what keeps the
largest eigenvalue of S (H + decay) S below 1, with S^2 = lr D / limit.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.common.linear_step import (
    Group,
    LinearStep,
    UnknownLimitError,
    filter_step,
    linear_step_of,
    momentum_step,
)
from steepest.diagnostics.common.guards import values_restored
from steepest.diagnostics.common.step_hooks import StepHooks, Timer
from steepest.diagnostics.curvature.operator import CurvatureUnavailableError
from steepest.diagnostics.updates.recorders import optimizer_parameters


@dataclass(frozen=True)
class LinearSteps:
    """What an optimizer's next step does to a change of the gradient, parameter by parameter.

    Attributes:
        rates: lr D / limit, a number or a tensor like the parameter; 0 for one that is not moved. Where curvature times
            rate is 1 is the edge.
        decays: Coupled weight decay, which adds to the curvature.
        threshold: Limit over learning rate of the group with most entries: the edge in the units of its preconditioned
            curvature; infinite if nothing moves.
        plain: Whether there is no preconditioner, and one learning rate and decay for all.
    """

    rates: list[float | Tensor]
    decays: list[float]
    threshold: float
    plain: bool

    def scale(self, parameters: Sequence[Tensor]) -> Tensor:
        """S as a vector as long as all parameters together."""
        roots = (
            torch.as_tensor(rate).to(own.detach()).sqrt() for rate, own in zip(self.rates, parameters, strict=True)
        )
        return torch.cat([root.expand_as(own).reshape(-1) for root, own in zip(roots, parameters, strict=True)])

    def decay(self, parameters: Sequence[Tensor]) -> Tensor:
        """The coupled decay of every entry."""
        pairs = zip(self.decays, parameters, strict=True)
        return torch.cat([own.detach().new_full((own.numel(),), decay) for decay, own in pairs])


def linear_steps(
    optimizers: Sequence[Optimizer],
    parameters: Sequence[Tensor],
    groups: Mapping[Optimizer, Sequence[Group]] | None = None,
) -> LinearSteps:
    """Read the step off the optimizers that own these parameters.

    Known are `torch.optim`'s SGD, Adam, AdamW, RMSprop and Adagrad, and what says its step itself
    (common/linear_step.py).

    Args:
        optimizers: Their states must be those of the step in question.
        parameters: Parameters, each of one of the optimizers; one of none is not moved.
        groups: Parameter groups as they were in that step, if a schedule has changed them since.

    Raises:
        UnknownLimitError: if an optimizer's step is not linear in the gradient, or not known to be.
    """
    found: dict[int, tuple[float, LinearStep]] = {}
    for optimizer in optimizers:
        for group in (groups or {}).get(optimizer, optimizer.param_groups):
            if group.get("maximize"):
                raise UnknownLimitError(f"{type(optimizer).__name__} maximizes, so no learning rate is stable")
            for parameter in group["params"]:
                step = linear_step_of(optimizer, group, optimizer.state.get(parameter, {}))
                found[id(parameter)] = float(group["lr"]), step
    entries: dict[tuple[float, float], int] = {}
    rates: list[float | Tensor] = []
    decays: list[float] = []
    for parameter in parameters:
        lr, step = found.get(id(parameter), (0.0, LinearStep(now=0.0)))
        rate = lr / step.limit if step.limit > 0 else math.inf
        rates.append(rate * step.preconditioner)
        decays.append(step.decay)
        if lr > 0:
            entries[step.limit, lr] = entries.get((step.limit, lr), 0) + parameter.numel()
    limit, lr = max(entries, key=lambda key: entries[key], default=(math.inf, 1.0))
    return LinearSteps(rates, decays, limit / lr, _all_alike(rates) and _all_alike(decays))


def momentum_limit(momentum: float, dampening: float = 0.0, nesterov: bool = False, decoupled: float = 0.0) -> float:
    """Largest stable curvature times learning rate of SGD with momentum, (2 + 2b) / (1 - d) or (2 + 2b) / (1 + 2b).

    Args:
        momentum: b, in [0, 1).
        dampening: d, in [0, 1]; with d = b the velocity is an average.
        nesterov: Nesterov's form.
        decoupled: Learning rate times decoupled weight decay.
    """
    return momentum_step(momentum, dampening, nesterov, decoupled=decoupled).limit


def filter_limit(pole: float, zero: float, decoupled: float = 0.0) -> float:
    """The same for AutoSGM's filter, (1 - b) / (1 - c) (z - c) / (z - b), which has no gain.

    Args:
        pole: b, in [0, 1).
        zero: c, at most b; below 0 the weights may turn in a spiral before they flip.
        decoupled: Share of the weights that is taken away in each step.
    """
    return filter_step(pole, zero, decoupled=decoupled).limit


def _all_alike(values: Sequence[float | Tensor]) -> bool:
    return all(not isinstance(value, Tensor) for value in values) and len(set(values)) == 1


class StepRecorder(StepHooks):
    """Keeps what a step hook sees before a wanted step; schedules move the options on right after it.

    Args:
        optimizers: Whose steps to watch.
        wanted: Called before every step; if True the step is recorded, at the price of a copy of its weights.
        timed: A context for the hooks' work on recorded steps, which measures its time, say.

    Attributes:
        groups: By optimizer, the parameter groups of its first wanted step since the last `clear`.
    """

    def __init__(self, optimizers: Sequence[Optimizer], wanted: Callable[[], bool], timed: Timer = nullcontext) -> None:
        super().__init__(wanted, timed)
        self.groups: dict[Optimizer, list[dict[str, Any]]] = {}
        self._before: dict[int, Tensor] = {}
        self._handles = [optimizer.register_step_pre_hook(self._before_step) for optimizer in optimizers]

    def weights_before(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Values before the recorded steps; the present ones of parameters that no recorded step could change."""
        return [self._before.get(id(parameter), parameter.detach()) for parameter in parameters]

    def clear(self) -> None:
        """Forget what was recorded."""
        super().clear()
        self.groups.clear()
        self._before.clear()

    def _before_step(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        if not self.wanted() or optimizer in self.groups:
            return
        try:
            with self.timed():
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        self._before[id(parameter)] = parameter.detach().clone()
                self.groups[optimizer] = [dict(group) for group in optimizer.param_groups]
        except Exception as error:  # out of memory, say: no reason to stop training
            self._error = error


@contextmanager
def weights_at(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Give the parameters other values for a while, and their own back, to the bit, on exit."""
    with values_restored(parameters):
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), list(values))
        yield


def trained_parameters(module: nn.Module, optimizers: Sequence[Optimizer]) -> list[nn.Parameter]:
    """The trainable parameters of `module` that one of the optimizers updates, in the module's order.

    Raises:
        CurvatureUnavailableError: if there are none, or they are of 16 bits.
    """
    found = {id(own) for optimizer in optimizers for _, own in optimizer_parameters(module, optimizer)}
    parameters = [parameter for parameter in module.parameters() if id(parameter) in found]
    if not parameters:
        raise CurvatureUnavailableError("no optimizer updates a parameter, so there is no curvature to measure")
    coarse = next((own.dtype for own in parameters if own.dtype in (torch.float16, torch.bfloat16)), None)
    if coarse is not None:
        raise CurvatureUnavailableError(
            f"weights in {coarse} are too imprecise for second derivatives: train with precision bf16-mixed or 32-true"
        )
    return parameters
