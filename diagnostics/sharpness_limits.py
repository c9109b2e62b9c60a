"""The largest curvature at which an optimizer is stable, from its options and its state.

Every rule here is linear in the gradient while its preconditioner D stands still: the weights move by
-lr D F(gradients so far), F a filter such as momentum. On a quadratic of curvature h they come to the edge of stability
when they flip sign from step to step, where F is a plain factor f: at h lr D = 2 / f, the rule's limit. Decay that is
coupled adds to h; decoupled decay w takes lr w from the 2. Groups may differ in all of it: stable is what keeps the
largest eigenvalue of S (H + decay) S below 1, with S^2 = lr D / limit.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Group = Mapping[str, Any]


class UnknownLimitError(ValueError):
    """No limit is known for this optimizer; the message says why."""


@dataclass(frozen=True)
class LinearStep:
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


@dataclass(frozen=True)
class _Rule:
    """Of one parameter: D, the coupled decay, and the limit on curvature times lr D."""

    preconditioner: Tensor | float
    decay: float
    limit: float


def linear_step(
    optimizers: Sequence[Optimizer],
    parameters: Sequence[Tensor],
    groups: Mapping[Optimizer, Sequence[Group]] | None = None,
) -> LinearStep:
    """Read the step off the optimizers that own these parameters.

    Known are `torch.optim`'s SGD, Adam, AdamW, RMSprop and Adagrad, the same rules of this project, and AutoSGM.

    Args:
        optimizers: Their states must be those of the step in question.
        parameters: Parameters, each of one of the optimizers; one of none is not moved.
        groups: Parameter groups as they were in that step, if a schedule has changed them since.

    Raises:
        UnknownLimitError: if an optimizer's step is not linear in the gradient, or not known to be.
    """
    found: dict[int, tuple[float, _Rule]] = {}
    for optimizer in optimizers:
        for group in (groups or {}).get(optimizer, optimizer.param_groups):
            rule_of = _rule_of(optimizer, group)
            if group.get("maximize"):
                raise UnknownLimitError(f"{type(optimizer).__name__} maximizes, which is stable nowhere")
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                found[id(parameter)] = float(group["lr"]), rule_of(group, state)
    entries: dict[tuple[float, float], int] = {}
    rates: list[float | Tensor] = []
    decays: list[float] = []
    for parameter in parameters:
        lr, rule = found.get(id(parameter), (0.0, _Rule(1.0, 0.0, math.inf)))
        rate = lr / rule.limit if rule.limit > 0 else math.inf
        rates.append(rate * rule.preconditioner)
        decays.append(rule.decay)
        if lr > 0:
            entries[rule.limit, lr] = entries.get((rule.limit, lr), 0) + parameter.numel()
    limit, lr = max(entries, key=lambda key: entries[key], default=(math.inf, 1.0))
    return LinearStep(rates, decays, limit / lr, _all_alike(rates) and _all_alike(decays))


def momentum_limit(momentum: float, dampening: float = 0.0, nesterov: bool = False, decoupled: float = 0.0) -> float:
    """Largest stable curvature times learning rate of SGD with momentum, (2 + 2b) / (1 - d) or (2 + 2b) / (1 + 2b).

    Args:
        momentum: b, in [0, 1).
        dampening: d, in [0, 1]; with d = b the velocity is an average.
        nesterov: Nesterov's form.
        decoupled: Learning rate times decoupled weight decay.
    """
    factor = (1 - dampening) * (1 + 2 * momentum if nesterov else 1.0)
    return math.inf if factor == 0 else (2 - decoupled) * (1 + momentum) / factor


def filter_limit(pole: float, zero: float, decoupled: float = 0.0) -> float:
    """The same for AutoSGM's filter, (1 - b) / (1 - c) (z - c) / (z - b), which has no gain.

    Args:
        pole: b, in [0, 1).
        zero: c, at most b; below 0 the weights may turn in a spiral before they flip.
        decoupled: Share of the weights that is taken away in each step.
    """
    flip = (1 - pole) * (1 + zero)
    limit = (2 - decoupled) * (1 + pole) * (1 - zero) / flip if flip > 0 else math.inf
    if zero < 0:
        limit = min(limit, (1 - (1 - decoupled) * pole) * (1 - zero) / ((1 - pole) * -zero))
    return limit


# --- the rules ------------------------------------------------------------------------------------------------------


def _sgd(group: Group, state: Group) -> _Rule:
    momentum = group.get("momentum", 0.0)
    # torch.optim.SGD ignores dampening where there is no momentum.
    limit = momentum_limit(momentum, group.get("dampening", 0.0) if momentum else 0.0, bool(group.get("nesterov")))
    return _Rule(1.0, group["weight_decay"], limit)


def _heavy_ball(group: Group, state: Group) -> _Rule:
    return _Rule(1.0, group["weight_decay"], momentum_limit(group["momentum"], group["dampening"]))


def _nesterov(group: Group, state: Group) -> _Rule:
    return _Rule(1.0, group["weight_decay"], momentum_limit(group["momentum"], nesterov=True))


def _adam(group: Group, state: Group) -> _Rule:
    return _adam_rule(group, state, bool(group.get("decoupled_weight_decay")))


def _adamw(group: Group, state: Group) -> _Rule:
    return _adam_rule(group, state, decoupled=True)


def _coupled_adam(group: Group, state: Group) -> _Rule:
    return _adam_rule(group, state, decoupled=False)


def _adam_rule(group: Group, state: Group, decoupled: bool) -> _Rule:
    (beta1, beta2), decay = map(float, group["betas"]), float(group["weight_decay"])
    limit = momentum_limit(beta1, dampening=beta1, decoupled=float(group["lr"]) * decay if decoupled else 0.0)
    coupled = 0.0 if decoupled else decay
    squares = state.get("squares", state.get("exp_avg_sq"))
    if squares is None:
        return _Rule(0.0, coupled, limit)
    if group.get("amsgrad"):
        squares = state["max_exp_avg_sq"]
    step = torch.as_tensor(state["step"]).to(squares.device, torch.float64)
    first, second = (1 - beta1**step).to(squares.dtype), (1 - beta2**step).to(squares.dtype)
    return _Rule(1 / (((squares / second).sqrt() + group["eps"]) * first), coupled, limit)


def _rmsprop(group: Group, state: Group) -> _Rule:
    limit = momentum_limit(group.get("momentum", 0.0))
    squares = state.get("squares", state.get("square_avg"))
    if squares is None:
        return _Rule(0.0, group["weight_decay"], limit)
    if group.get("centered"):
        squares = squares - state["grad_avg"].square()
    return _Rule(1 / (squares.sqrt() + group["eps"]), group["weight_decay"], limit)


def _adagrad(group: Group, state: Group) -> _Rule:
    if "sum" not in state:
        return _Rule(0.0, group["weight_decay"], 2.0)
    slowed = 1 + (float(state["step"]) - 1) * group["lr_decay"]
    return _Rule(1 / ((state["sum"].sqrt() + group["eps"]) * slowed), group["weight_decay"], 2.0)


def _autosgm(group: Group, state: Group) -> _Rule:
    lr, beta, zero, decay = group["lr"], group["beta"], group["gamma"], group["weight_decay"]
    tracked = "previous_rate" in state  # all that multiplies the filtered gradient, kept by track_dynamics
    if not tracked and (group["window"] != "none" or group["numerator"] == "chebyshev"):
        raise UnknownLimitError("AutoSGM keeps its whole learning rate for us only with track_dynamics=True")
    share = 0.0
    if group["decoupled_decay"] and decay:
        if group["window"] != "none" or group["numerator"] != "constant":
            raise UnknownLimitError("no stability limit is known for AutoSGM with decoupled decay at a varying rate")
        share, decay = lr * decay * (1 - beta) / (1 - zero), 0.0
    limit = filter_limit(beta, zero, share)
    if tracked:
        return _Rule(state["previous_rate"] * ((group["gain"] or 1 - beta) / (1 - beta) / (lr or 1.0)), decay, limit)
    step = int(state["step"])
    gain = _filter_gain(beta, group, step)
    if not group["adaptive"]:
        return _Rule(gain, decay, limit)
    eps, pole = group["eps"], group["denominator_beta"]
    squares = state["exp_avg_sq"] * _filter_gain(pole, group, step) + (eps if group["repeat_eps"] else 0.0)
    # In units of the learning rate.
    numerator = state["numerator"] / (lr or 1.0) if "numerator" in state else 1.0
    return _Rule(numerator * gain / (squares.sqrt() + eps), decay, limit)


def _filter_gain(pole: float, group: Group, step: int) -> float:
    """Gain of a filter beyond that of input gain 1 - pole, with what makes up for its start at zero."""
    if group["debias"]:
        return 1 / (1 - pole ** max(step, 1))
    return (group["gain"] or 1 - pole) / (1 - pole)


def _composite(group: Group, state: Group) -> _Rule:
    algorithm = group["algorithm"]
    limited = algorithm.startswith("muon_") and group["spectral_budget"] is not None and group["inner_solver"] != "none"
    if algorithm not in ALGORITHMS or limited:
        raise UnknownLimitError(f"the step of {algorithm} is not linear in the gradient")
    return ALGORITHMS[algorithm](group, state)


ALGORITHMS: dict[str, Callable[[Group, Group], _Rule]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "autosgm": _autosgm,
    "muon_sgd": _sgd,
    "muon_adamw": _adamw,
}
# By class name: this folder imports no optimizer of ours.
OPTIMIZERS: dict[str, Callable[[Group, Group], _Rule]] = {
    "torch.optim.sgd.SGD": _sgd,
    "torch.optim.adam.Adam": _adam,
    "torch.optim.adamw.AdamW": _adamw,
    "torch.optim.rmsprop.RMSprop": _rmsprop,
    "torch.optim.adagrad.Adagrad": _adagrad,
    "optim.references.sgd.SGD": _sgd,
    "optim.references.heavy_ball.HeavyBall": _heavy_ball,
    "optim.references.nesterov.Nesterov": _nesterov,
    "optim.references.adam.Adam": _coupled_adam,
    "optim.references.adamw.AdamW": _adamw,
    "optim.references.rmsprop.RMSprop": _rmsprop,
    "optim.composite.Composite": _composite,
}


def _rule_of(optimizer: Optimizer, group: Group) -> Callable[[Group, Group], _Rule]:
    own = type(optimizer)
    for known in own.__mro__:
        rule = OPTIMIZERS.get(f"{known.__module__}.{known.__qualname__}")
        if rule is not None:
            # A class that is derived from a known one and steps in its own way is another optimizer.
            for method in ("step", "update"):
                if _plain(own, method) is not _plain(known, method):
                    raise UnknownLimitError(f"{own.__name__} has a {method} of its own, whose limit is not known")
            return rule
    raise UnknownLimitError(f"no stability limit is known for {own.__name__}")


def _plain(owner: type, method: str) -> Any:
    function = getattr(owner, method, None)
    return None if function is None else inspect.unwrap(function)  # torch.optim wraps `step` to profile it


def _all_alike(values: Sequence[float | Tensor]) -> bool:
    return all(not isinstance(value, Tensor) for value in values) and len(set(values)) == 1
