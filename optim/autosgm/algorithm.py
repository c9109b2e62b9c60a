"""AutoSGM's update rule on lists of tensors, portion by portion."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from steepest.common.linear_step import LinearStep, UnknownLimitError, filter_step
from steepest.optim.autosgm import compiled, dynamics
from steepest.optim.autosgm.batches import Part, batches, parts
from steepest.optim.autosgm.foreach import Scratch, into, scaled_and_shifted
from steepest.optim.autosgm.kernels import Numbers
from steepest.optim.autosgm.numerators import (
    CHEBYSHEV_FACTOR,
    ESTIMATORS,
    SCALAR_STATES,
    SMOOTHING_POLE,
    chebyshev,
    smooth,
)
from steepest.optim.autosgm.options import AutoSGMOptions, check_options, window_at
from steepest.optim.core.algorithm import Algorithm, State, Statistics, register_algorithm

Group = Mapping[str, Any]
Tensors = list[Tensor]


@register_algorithm
class AutoSGMRule(Algorithm):
    """A filtered gradient times a learning rate numerator / denominator; equations: `steepest.optim.autosgm`."""

    name = "autosgm"
    options = AutoSGMOptions

    def check(self, group: Group) -> None:
        """Refuse options out of range, and to compile where that is not possible."""
        check_options(group)
        if group["compiled"]:
            compiled.check_compiler(parameter.device.type for parameter in group["params"])

    def linear_step(self, group: Group, state: State) -> LinearStep:
        """That of the filter, divided by the denominator."""
        lr, beta, gamma, decay = group["lr"], group["beta"], group["gamma"], group["weight_decay"]
        tracked = "previous_rate" in state  # all that multiplies the filtered gradient, kept by track_dynamics
        if not tracked and (group["window"] != "none" or group["numerator"] == "chebyshev"):
            raise UnknownLimitError("AutoSGM records its whole learning rate only with track_dynamics=True")
        decoupled = 0.0
        if group["decoupled_decay"] and decay:
            if group["window"] != "none" or group["numerator"] != "constant":
                raise UnknownLimitError(
                    "no stability limit is known for AutoSGM with decoupled decay at a varying rate"
                )
            decoupled, decay = lr * _decoupled(group), 0.0
        step = max(int(state["step"]), 1)
        scale = _scale(beta, group, step)
        if tracked:
            preconditioner = state["previous_rate"] * (_undebiased(beta, group) / (lr or 1.0))
        elif group["adaptive"]:
            eps, pole = group["eps"], group["denominator_beta"]
            squares = state["exp_avg_sq"] * _scale(pole, group, step) + (eps if group["repeat_eps"] else 0.0)
            # In units of the learning rate.
            numerator = state["numerator"] / (lr or 1.0) if "numerator" in state else 1.0
            preconditioner = numerator * scale / (squares.sqrt() + eps)
        else:
            preconditioner = scale
        return filter_step(beta, gamma, decay=decay, decoupled=decoupled, preconditioner=preconditioner)

    def initial_state(self, weight: Tensor, group: Group) -> State:
        """The number of steps done, the filters' states, and those of the numerator."""
        # On the CPU, so that reading it never waits for a device.
        state = {"step": torch.zeros((), dtype=torch.int64)}
        state |= {name: torch.zeros_like(weight) for name in _elementwise(group)}
        if group["adaptive"]:
            state |= {name: weight.new_zeros(()) for name in SCALAR_STATES[group["numerator"]]}
        if group["track_dynamics"]:
            state |= {name: torch.zeros_like(weight) for name in dynamics.STATES}
        return state

    def update(
        self,
        group: Group,
        weights: Tensors,
        gradients: Tensors,
        states: list[State],
        statistics: Statistics | None,
    ) -> None:
        """One step of all weights."""
        scratch = Scratch()
        for step, members in _by_step(states):
            if step == 1:
                _shift_zeros([weights[member] for member in members], group["eps"])
            if group["compiled"]:
                _step_compiled(group, step, *_of(members, weights, gradients, states, statistics))
                continue
            for indices, rows in batches([weights[member] for member in members]):
                chosen = [members[index] for index in indices]
                _step_batch(group, step, rows, *_of(chosen, weights, gradients, states, statistics), scratch)


def _of(
    members: list[int], weights: Tensors, gradients: Tensors, states: list[State], statistics: Statistics | None
) -> tuple[Tensors, Tensors, list[State], Statistics | None]:
    """What belongs to some of the weights."""
    return (
        [weights[member] for member in members],
        [gradients[member] for member in members],
        [states[member] for member in members],
        None if statistics is None else [statistics[member] for member in members],
    )


def _step_batch(
    group: Group,
    step: int,
    rows: int | None,
    weights: Tensors,
    gradients: Tensors,
    states: list[State],
    statistics: Statistics | None,
    scratch: Scratch,
) -> None:
    """One step of the tensors of a batch, part by part."""
    factor = window_at(group, step)
    trace = dynamics.Trace() if group["track_dynamics"] or statistics is not None else None
    constant = not group["adaptive"] or group["numerator"] == "constant"
    portions = parts(weights, gradients, states, _elementwise(group), rows, scratch, keep_updates=not constant)
    if constant:
        numerators = [group["lr"]] * len(weights)
        for part in portions:
            _step_constant(group, step, factor, part, trace)
    else:
        sizes = [weight.numel() for weight in weights]
        numerators = _step_varying(group, step, factor, portions, sizes, states, trace)
    if trace is not None:
        trace.finish(group, step, factor, numerators, states, statistics)


def _step_constant(group: Group, step: int, factor: float, part: Part, trace: dynamics.Trace | None) -> None:
    """The step where the numerator is the learning rate itself: no tensor of updates is needed."""
    _, filtered, denominators = _filtered(group, step, part, trace)
    rate = (factor if group["maximize"] else -factor) * group["lr"]
    if group["decoupled_decay"] and group["weight_decay"]:
        torch._foreach_mul_(part.weights, 1 + rate * _decoupled(group))
    rate *= _scale(group["beta"], group, step)
    if group["adaptive"]:
        torch._foreach_addcdiv_(part.weights, filtered, denominators, value=rate)
    else:
        torch._foreach_add_(part.weights, filtered, alpha=rate)


def _step_varying(
    group: Group,
    step: int,
    factor: float,
    portions: Iterator[Part],
    sizes: list[int],
    states: list[State],
    trace: dynamics.Trace | None,
) -> Tensors:
    """The step where the numerator is known only after all parts of the tensors were seen."""
    estimator = ESTIMATORS.get(group["numerator"])
    scale = _scale(group["beta"], group, step)
    moved: list[Tensors] = []
    updates: list[Tensors] = []
    sums: Tensors = []
    scratch = None
    for part in portions:
        scratch = part.scratch
        gradients, update, denominators = _filtered(group, step, part, trace)
        torch._foreach_div_(update, denominators)
        if group["decoupled_decay"] and group["weight_decay"]:
            torch._foreach_add_(update, part.weights, alpha=_decoupled(group) / scale)
        if estimator:
            found = estimator.estimate(group, part, gradients, denominators)
            sums = list(torch._foreach_add(sums, found)) if sums else found
        moved.append(part.weights)
        updates.append(update)
    numerators = (
        smooth(sums, sizes, states) if estimator is not None else chebyshev(group, scale, updates, states, scratch)
    )
    rate = (factor if group["maximize"] else -factor) * scale
    for weights, update in zip(moved, updates, strict=True):
        torch._foreach_addcmul_(weights, update, numerators, value=rate)
    return numerators


def _filtered(group: Group, step: int, part: Part, trace: dynamics.Trace | None) -> tuple[Tensors, Tensors, Tensors]:
    """Gradients with coupled decay; smoothed, at an input gain of 1 - beta and not debiased; denominators, if any."""
    eps, gradients = group["eps"], part.gradients
    if group["weight_decay"] and not group["decoupled_decay"]:
        gradients = into(part.room("gradients"), "add", gradients, part.weights, alpha=group["weight_decay"])

    # With m the average of g, (m_t - gamma m_{t-1}) / (1 - gamma) is on the line from m_{t-1} to g_t.
    average, beta = part.states["exp_avg"], group["beta"]
    room = part.updates or part.room("filtered")
    filtered = into(room, "lerp", average, gradients, scalar=(1 - beta) / (1 - group["gamma"]))
    torch._foreach_lerp_(average, gradients, 1 - beta)

    denominators = []
    if group["adaptive"]:
        square, beta = part.states["exp_avg_sq"], group["denominator_beta"]
        torch._foreach_mul_(square, beta)
        torch._foreach_addcmul_(square, gradients, gradients, value=1 - beta)
        shift, room = eps if group["repeat_eps"] else 0.0, part.room("denominators")
        denominators = scaled_and_shifted(square, _scale(beta, group, step), shift, room)
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, eps)
    if trace is not None:
        trace.add(part.weights, gradients, filtered, denominators)
    return gradients, filtered, denominators


def _step_compiled(
    group: Group, step: int, weights: Tensors, gradients: Tensors, states: list[State], statistics: Statistics | None
) -> None:
    """One step by compiled kernels, tensor by tensor."""
    factor = window_at(group, step)
    numbers = {dtype: _numbers(group, step, factor, dtype) for dtype in {weight.dtype for weight in weights}}
    for index, (weight, gradient, state) in enumerate(zip(weights, gradients, states, strict=True)):
        if not weight.numel():
            continue
        trace = None
        if group["track_dynamics"] or statistics is not None:
            # What the kernels keep to themselves is computed beside them, on copies.
            trace = dynamics.Trace()
            averages = {name: [state[name].clone()] for name in ("exp_avg", "exp_avg_sq") if name in state}
            _filtered(group, step, Part([weight.clone()], [gradient], averages), trace)
        numerator = compiled.step(group, numbers[weight.dtype], weight, gradient, state)
        if trace is not None:
            numerators = [group["lr"]] if numerator is None else [numerator]
            trace.finish(group, step, factor, numerators, [state], statistics and [statistics[index]])


def _numbers(group: Group, step: int, factor: float, dtype: torch.dtype) -> Numbers:
    beta, square_beta, numerator_beta = (group[name] for name in ("beta", "denominator_beta", "numerator_beta"))
    numbers = {
        "lr": group["lr"],
        "rate": factor if group["maximize"] else -factor,
        "decay": 0.0 if group["decoupled_decay"] else group["weight_decay"],
        "pull": _decoupled(group) if group["decoupled_decay"] else 0.0,
        "gain": 1 - beta,
        "blend": (1 - beta) / (1 - group["gamma"]),
        "scale": _scale(beta, group, step),
        "square_pole": square_beta,
        "square_gain": 1 - square_beta,
        "square_scale": _scale(square_beta, group, step),
        "shift": group["eps"] if group["repeat_eps"] else 0.0,
        "eps": group["eps"],
        "pole": numerator_beta,
        "rest": 1 - numerator_beta,
        "outlier": CHEBYSHEV_FACTOR,
        "smoothing": SMOOTHING_POLE,
    }
    return Numbers(**{name: torch.full((), number, dtype=dtype) for name, number in numbers.items()})


def _shift_zeros(weights: Tensors, eps: float) -> None:
    """What the first step begins with: zeros would never move under a numerator that multiplies by the weight."""
    for weight in weights:
        weight.add_((weight.abs() < eps).to(weight.dtype), alpha=eps)


def _scale(beta: float, group: Group, step: int) -> float:
    """From the filter of input gain 1 - beta to that asked for: its gain, or what makes up for its start at zero."""
    if group["debias"]:
        return 1 / (1 - beta**step)
    return _undebiased(beta, group)


def _undebiased(beta: float, group: Group) -> float:
    return (group["gain"] or 1 - beta) / (1 - beta)


def _decoupled(group: Group) -> float:
    """The share of the weights that joins the update."""
    return (1 - group["beta"]) / (1 - group["gamma"]) * group["weight_decay"]


def _elementwise(group: Group) -> tuple[str, ...]:
    """The states with an entry per element."""
    if not group["adaptive"]:
        return ("exp_avg",)
    estimator = ESTIMATORS.get(group["numerator"])
    return ("exp_avg", "exp_avg_sq", *(estimator.states if estimator else ()))


def _by_step(states: list[State]) -> Iterator[tuple[int, list[int]]]:
    """Advance the step counts; yield each with its members (they differ where gradients were missing)."""
    counts = [state["step"] for state in states]
    torch._foreach_add_(counts, 1)
    members: dict[int, list[int]] = {}
    for index, step in enumerate(torch.stack(counts).tolist()):
        members.setdefault(step, []).append(index)
    yield from members.items()
