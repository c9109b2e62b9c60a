"""One optimizer object that applies an algorithm of its own to each parameter group."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.common.linear_step import LinearStep, UnknownLimitError, check_steps_alike
from steepest.optim.checks import check_number
from steepest.optim.core.algorithm import Algorithm, State, algorithm_of
from steepest.optim.core.grouping import Route, algorithm_groups
from steepest.optim.core.implementation import with_own_implementation
from steepest.optim.core.naming import matched_by_name
from steepest.optim.core.options import Options, SharedOptions
from steepest.optim.core.rounding import LOW_PRECISION, check_rounding, working_copy, write_back
from steepest.optim.registry import unknown_name

# What a group may hold besides its algorithm's options.
COMMON = {
    "params", "param_names", "name", "algorithm", "lr", "initial_lr", "weight_decay", "lr_scale", "split", "clip",
    "rounding", "reasons",
}  # fmt: skip


class Composite(Optimizer):
    """Applies to each parameter group the algorithm it names: `{"params": ..., "algorithm": "muon", "lr": 0.02}`.

    Lightning allows one optimizer under automatic optimization; schedules, monitors and clipping look at
    `param_groups`. So hidden matrices under Muon and the rest under AdamW are two groups of one object.

    State is allocated here, not in the first step: a checkpoint is complete at any time. It is computed and kept in
    float32 for parameters of 16 bits, and matched by parameter name when loaded.

    Args:
        groups: Parameter groups, each with "params" (tensors, or pairs of name and tensor), "algorithm", "lr", and
            options of the algorithm; what is left out takes the algorithm's default.
        rounding: How 16-bit parameters take up a step: "nearest", "kahan" (twice their memory, loses nothing) or
            "stochastic" (bfloat16 only). A group's own "rounding" goes before it.

    Attributes:
        record_statistics: Whether the next steps fill `last_stats`; off, they cost nothing.
        last_stats: Statistics of the last step by parameter name: scalar tensors that the algorithm measured.

    Raises:
        ValueError: on an unknown algorithm or option, a value out of range, a parameter that is complex, of integers
            or distributed over devices, or without a shape.
    """

    record_statistics: bool = False
    last_stats: dict[str, dict[str, Tensor]]

    def __init__(self, groups: Iterable[dict[str, Any]], rounding: str = "nearest") -> None:
        self.last_stats = {}
        super().__init__([{"rounding": rounding, **group} for group in groups], {})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with its algorithm's defaults for what it leaves out, and allocate its state."""
        algorithm = algorithm_of(param_group)
        _check_options(param_group, algorithm)
        defaults = {"weight_decay": 0.0, "rounding": "nearest", **algorithm.defaults}
        super().add_param_group({**defaults, **param_group})
        group = self.param_groups[-1]
        for parameter in group["params"]:
            _check_parameter(parameter, group)
        check_number("lr", group["lr"])
        check_number("weight_decay", group["weight_decay"])
        check_rounding(group["rounding"])
        algorithm.check(group)
        for parameter in group["params"]:
            self.state[parameter] = _initial_state(parameter, group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Change all parameters that have a gradient by one step.

        Args:
            closure: Evaluates the model anew and returns the loss; optional.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.last_stats = {}
        for group in self.param_groups:
            self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        indices = [index for index, parameter in enumerate(group["params"]) if parameter.grad is not None]
        if not indices:
            return
        parameters = [group["params"][index] for index in indices]
        gradients = [parameter.grad for parameter in parameters]
        if any(gradient.is_sparse for gradient in gradients):
            raise ValueError(
                f"{group['algorithm']} does not support sparse gradients: use sparse=False in the embedding, or "
                "torch.optim.SparseAdam by --optimizer external"
            )
        states = [self.state[parameter] for parameter in parameters]
        low = [parameter.dtype in LOW_PRECISION for parameter in parameters]
        weights = parameters
        if any(low):
            weights = [
                working_copy(parameter, state.get("compensation")) if is_low else parameter
                for parameter, state, is_low in zip(parameters, states, low, strict=True)
            ]
            gradients = [gradient.to(weight.dtype) for gradient, weight in zip(gradients, weights, strict=True)]
        statistics = [{} for _ in parameters] if self.record_statistics else None

        algorithm_of(group).update(group, weights, gradients, states, statistics)  # type: ignore[arg-type]

        for parameter, weight, state, is_low in zip(parameters, weights, states, low, strict=True):
            if is_low:
                write_back(parameter, weight, state.get("compensation"), _generator(state, group, weight))
        if statistics is not None:
            names = group.get("param_names") or [
                f"{self.param_groups.index(group)}.{i}" for i in range(len(group["params"]))
            ]
            self.last_stats |= {names[index]: entry for index, entry in zip(indices, statistics, strict=True) if entry}

    def linear_step(self, group: Mapping[str, Any], state: State) -> LinearStep:
        """What the step of a group's algorithm does to a change of the gradient (common/linear_step.py).

        Raises:
            UnknownLimitError: if it is not linear, or not known to be.
        """
        algorithm = type(algorithm_of(group))
        known = next(base for base in algorithm.__mro__ if "linear_step" in vars(base))
        found = None if known is Algorithm else algorithm_of(group).linear_step(group, state)
        if found is None:
            raise UnknownLimitError(f"the step of {group['algorithm']} is not linear in the gradient")
        check_steps_alike(algorithm, known)
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; parameters are matched by name; types, devices and implementation stay as declared.

        Raises:
            ValueError: if the state belongs to another model or another algorithm.
        """
        state_dict = with_own_implementation(self, matched_by_name(self, state_dict))
        declared = {parameter: self.state[parameter] for group in self.param_groups for parameter in group["params"]}
        for own, saved in zip(self.param_groups, state_dict["param_groups"], strict=False):
            if saved.get("algorithm") != own["algorithm"]:
                raise ValueError(
                    f"the saved optimizer state is of algorithm {saved.get('algorithm')!r}, not {own['algorithm']!r}"
                )
        super().load_state_dict(state_dict)
        index = 0
        for group in self.param_groups:
            names = group.get("param_names") or [str(i) for i in range(len(group["params"]))]
            for name, parameter in zip(names, group["params"], strict=True):
                self.state[parameter] = _taken_up(name, state_dict["state"].get(index, {}), declared[parameter])
                index += 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.last_stats = {}


def composite_of(
    module: nn.Module,
    route: Route,
    lr: float,
    weight_decay: float,
    options: Options | Mapping[str, Mapping[str, Any]],
    shared: SharedOptions,
) -> Composite:
    """The `Composite` of a module, what a registered factory returns.

    Args:
        module: The model.
        route: The algorithm of all parameters, or a function that says it for each, see `algorithm_groups`.
        lr: Learning rate, at least 0.
        weight_decay: Decay of what decays by its role, at least 0.
        options: Those of the algorithm; by algorithm, where there are several.
        shared: What all algorithms share.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    check_number("lr", lr)
    check_number("weight_decay", weight_decay)
    if isinstance(options, Options):
        options = {str(route): vars(options)}
    groups = algorithm_groups(module, route, lr=lr, weight_decay=weight_decay, options=options, shared=shared)
    return Composite(groups, shared.rounding)


def split_by_dimensions(
    params: Iterable[Any], matrices: dict[str, Any], others: dict[str, Any]
) -> list[dict[str, Any]]:
    """Groups for bare parameters, where no module tells their roles: two and more dimensions, and fewer.

    Args:
        params: Tensors, pairs of name and tensor, or groups with "params".
        matrices: Options of the groups of tensors with two or more dimensions.
        others: Options of the groups of the rest.

    Returns:
        At most two groups for each group given; its own options go before those of the other arguments.
    """
    params = list(params)
    groups = params if params and isinstance(params[0], dict) else [{"params": params}]
    split = []
    for group in groups:
        members = group["params"]
        members = [members] if isinstance(members, Tensor) else list(members)
        own = {key: value for key, value in group.items() if key != "params"}
        for options, wanted in ((matrices, True), (others, False)):
            chosen = [m for m in members if ((m[1] if isinstance(m, tuple) else m).ndim >= 2) is wanted]
            if chosen:
                split.append({**options, **own, "params": chosen})
    return split


def _check_options(group: dict[str, Any], algorithm: Algorithm) -> None:
    for option in group:
        if option not in COMMON and option not in algorithm.defaults:
            raise ValueError(
                unknown_name(
                    f"option of algorithm {algorithm.name}", option, ["lr", "weight_decay", *algorithm.defaults]
                )
            )
    if "lr" not in group:
        raise ValueError(f"algorithm {algorithm.name} needs a learning rate lr")


def _check_parameter(parameter: Tensor, group: dict[str, Any]) -> None:
    if isinstance(parameter, nn.UninitializedParameter):
        raise ValueError("a parameter has no shape yet: run a batch through the model before making its optimizer")
    if not parameter.is_floating_point():
        raise ValueError(
            f"{group['algorithm']} does not support a parameter of type {parameter.dtype}: real floating point only"
        )
    if hasattr(parameter, "device_mesh"):
        raise ValueError(
            f"{group['algorithm']} does not support a parameter sharded over devices (DTensor): use strategy ddp, "
            "where each rank holds all of it"
        )
    if group["rounding"] == "stochastic" and parameter.dtype == torch.float16:
        raise ValueError("rounding 'stochastic' is for bfloat16 parameters, not torch.float16: use 'kahan'")


def _initial_state(parameter: Tensor, group: dict[str, Any]) -> State:
    low = parameter.dtype in LOW_PRECISION
    with torch.no_grad():
        state = algorithm_of(group).initial_state(working_copy(parameter) if low else parameter.detach(), group)
        if low and group["rounding"] == "kahan":
            state["compensation"] = torch.zeros_like(parameter)
        if low and group["rounding"] == "stochastic":
            state["draws"] = torch.zeros((), dtype=torch.int64)
    return state


def _generator(state: State, group: dict[str, Any], weight: Tensor) -> torch.Generator | None:
    """Random numbers of this step and tensor alone: no others of the run move, and a resumed run agrees."""
    if group["rounding"] != "stochastic":
        return None
    state["draws"] += 1
    return torch.Generator(weight.device).manual_seed(int(state["draws"]) * 1_000_003 + weight.numel())


def _taken_up(name: str, saved: State, declared: State) -> State:
    for key in declared:
        if key not in saved:
            raise ValueError(
                f"the saved optimizer state of parameter {name!r} lacks {key!r}: it belongs to other options"
            )
    taken = {}
    for key, value in saved.items():
        if key not in declared:
            raise ValueError(
                f"the saved optimizer state of parameter {name!r} has {key!r}, which these options do not use"
            )
        if value.shape != declared[key].shape:
            raise ValueError(
                f"the saved state {key!r} of parameter {name!r} has shape {tuple(value.shape)}, expected "
                f"{tuple(declared[key].shape)}: it belongs to another model"
            )
        taken[key] = torch.empty_like(declared[key]).copy_(value)  # in the layout of this parameter
    return taken
