"""Optimizer classes of other packages as factories like ours.

Their options become those of a factory with names and types that are checked (many of these classes take any keyword
and ignore it), weight decay and learning rates follow roles and rules, and a step leaves `p.grad` as it was, which
monitors that look at gradients after it rely on.
"""

import inspect
import itertools
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import required

from steepest.optim.checks import check_number
from steepest.optim.core.grouping import parameter_groups, torch_groups
from steepest.optim.core.naming import keep_names, matched_by_name
from steepest.optim.core.options import ARGUMENTS, GroupOptions, shaped
from steepest.optim.core.roles import parameter_roles
from steepest.optim.registry import OPTIMIZERS, unknown_name

RULES = {parameter.name: parameter for parameter in GroupOptions.parameters()}
PLAIN = (bool, int, float, str, type(None))


def foreign_factory(
    name: str,
    home: str,
    algorithm: type[Optimizer],
    summary: str,
    *,
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
    unschedulable: str | None = None,
    by_matrix: bool = False,
) -> Callable[..., Optimizer]:
    """A factory function for an optimizer class.

    Args:
        name: Name of the function.
        home: Module that it is said to be of.
        algorithm: The class; its first argument takes the parameter groups.
        summary: What it is, in one line.
        defaults: Defaults that differ from those of the class.
        unschedulable: Why its learning rate cannot be scheduled; a run with a schedule warns of it.
        by_matrix: Whether its groups say by "use_muon" which are hidden matrices, for Muon, and which are for AdamW.

    Returns:
        `factory(module, *, lr, weight_decay, ..., rules, layer_decay)`: its options are those that the class names, as
        far as it has them, and the last two of all our optimizers.
    """
    options = _options(algorithm, defaults)

    def factory(module: nn.Module, **given: Any) -> Optimizer:
        for option, value in given.items():
            if option not in options:
                raise ValueError(unknown_name(f"option of optimizer {name}", option, list(options)))
            if not _fits(value, options[option].annotation):
                expected = inspect.formatannotation(options[option].annotation)
                raise ValueError(f"{option} of {name} must be {expected}, not {value!r}")
        values = {key: given.get(key, parameter.default) for key, parameter in options.items()}
        for key, value in values.items():
            if value is inspect.Parameter.empty:
                raise ValueError(f"{name} needs {key}")
        shared = GroupOptions(**{key: values.pop(key) for key in RULES})
        for key in ("lr", "weight_decay"):
            if values.get(key) is not None:
                check_number(key, values[key])
        groups = torch_groups(
            module,
            weight_decay=values.get("weight_decay", 0.0),
            lr=values.get("lr"),
            shared=shared,
            allowed=[option for option in values if option not in ("lr", "weight_decay")],
        )
        _check_decay(name, groups, values)
        if by_matrix:
            groups = _by_matrix(module, groups, values)
        optimizer = _built(name, algorithm, groups, values)
        if unschedulable is not None:
            warn_of_schedule(optimizer, f"{name} with a schedule: {unschedulable}")
        optimizer.register_load_state_dict_pre_hook(_matched_by_name)
        return keep_gradients(optimizer)

    module_parameter = inspect.Parameter("module", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=nn.Module)
    signature = inspect.Signature([module_parameter, *options.values()], return_annotation=Optimizer)
    return shaped(factory, name, home, signature, f"{summary}\n\n{_arguments(algorithm, options)}")


def keep_gradients(optimizer: Optimizer) -> Optimizer:
    """Let the steps of an optimizer work on copies of the gradients; afterwards `p.grad` is the tensor it was.

    Costs one copy of the gradients in time and memory.

    Args:
        optimizer: Any optimizer; with a closure the gradients of its last evaluation are kept.

    Returns:
        The same optimizer.
    """
    original = optimizer.step

    def step(optimizer: Optimizer, closure: Callable[[], Any] | None = None, **options: Any) -> Any:
        kept: list[tuple[nn.Parameter, torch.Tensor]] = []

        def copy_gradients() -> None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            kept[:] = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
            for parameter, gradient in kept:
                parameter.grad = gradient.clone()

        def guarded() -> Any:
            loss = closure()  # pyright: ignore[reportOptionalCall]
            copy_gradients()
            return loss

        if closure is None:
            copy_gradients()
        try:
            return original(closure if closure is None else guarded, **options)
        finally:
            for parameter, gradient in kept:
                parameter.grad = gradient

    # On the instance rather than by step hooks, which classes that call their base's step run twice.
    optimizer.step = types.MethodType(step, optimizer)
    return optimizer


def warn_of_schedule(optimizer: Optimizer, message: str) -> None:
    """Warn in the first step if a schedule changes the learning rates of an optimizer that is not made for it."""
    steps = itertools.count()

    def before(optimizer: Optimizer, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        # A PyTorch schedule notes each group's first learning rate.
        if next(steps) == 0 and any("initial_lr" in group for group in optimizer.param_groups):
            warnings.warn(message, stacklevel=2)

    optimizer.register_step_pre_hook(before)


def _options(algorithm: type[Optimizer], defaults: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
    hints = typing.get_type_hints(algorithm.__init__)
    options = {}
    for name, parameter in list(inspect.signature(algorithm).parameters.items())[1:]:
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            default = defaults.get(name, parameter.default)
            if default is required:
                default = parameter.empty
            annotation = _plain_type(hints.get(name, Any), default)
            options[name] = parameter.replace(kind=parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    return {**options, **RULES}


def _plain_type(hint: Any, default: Any) -> Any:
    """A type that can be checked and written on a command line; Any where there is none."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        parts = [_plain_type(part, inspect.Parameter.empty) for part in get_args(hint) if part is not torch.Tensor]
        if default is None:
            parts.append(type(None))
        return Any if Any in parts else Union[tuple(parts)]  # noqa: UP007 - made of a list
    if origin in (tuple, list):
        parts = [part if part is Ellipsis else _plain_type(part, inspect.Parameter.empty) for part in get_args(hint)]
        generic: Any = origin
        return Any if Any in parts or not parts else generic[tuple(parts)]
    if hint in PLAIN or origin is Literal or hint is dict:
        return hint | None if default is None else hint
    return Any


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type that `_plain_type` returned; whole numbers are numbers, lists tuples."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin in (tuple, list):
        if not isinstance(value, tuple | list):
            return False
        if origin is list or parts[-1] is Ellipsis:
            return all(_fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(_fits(item, part) for item, part in zip(value, parts, strict=True))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint not in (*PLAIN, dict) or isinstance(value, hint)


def _check_decay(name: str, groups: list[dict[str, Any]], values: Mapping[str, Any]) -> None:
    if "weight_decay" in values:
        return
    for group in groups:
        if group.pop("weight_decay"):
            raise ValueError(f"a rule sets weight_decay, which {name} does not have")


def _by_matrix(module: nn.Module, groups: list[dict[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split groups into hidden matrices and the rest, whose learning rate and decay have options of their own."""
    roles = {role.parameter: role for role in parameter_roles(module)}
    split = []
    for group in groups:
        names = dict(zip(group["params"], group["param_names"], strict=True))
        parts: dict[str, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            role = roles[parameter]
            label = "muon" if role.role == "matrix" else "adamw_decay" if role.decay else "adamw_no_decay"
            parts.setdefault(label, []).append(parameter)
        for label, parameters in parts.items():
            part = {**group, "params": parameters, "use_muon": label == "muon", "name": f"{label}_{group['name']}"}
            part["param_names"] = [names[parameter] for parameter in parameters]
            if label != "muon" and values.get("adamw_lr") is not None:
                scale = group["lr"] / values["lr"] if "lr" in group and values["lr"] else 1.0
                part["lr"] = values["adamw_lr"] * scale
            if label == "adamw_decay" and "adamw_wd" in values and group["weight_decay"] == values["weight_decay"]:
                part["weight_decay"] = values["adamw_wd"]
            split.append(part)
    return split


def _built(name: str, algorithm: type[Optimizer], groups: list[dict[str, Any]], values: Mapping[str, Any]) -> Optimizer:
    try:
        optimizer = algorithm(groups, **values)
    except Exception as error:  # of whatever class the package has for it
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from error
    switch = getattr(optimizer, "train", None)
    if callable(switch):
        switch()
    return optimizer


def _matched_by_name(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    # Other packages keep state of any shape, and entries that belong to no parameter: only places are looked up.
    state = state_dict["state"]
    places = {key: {"place": key} for key in state if isinstance(key, int)}
    matched = matched_by_name(optimizer, {**state_dict, "state": places})
    of_parameters = {key: state[entry["place"]] for key, entry in matched["state"].items()}
    return {**matched, "state": {**{key: state[key] for key in state if key not in places}, **of_parameters}}


def _arguments(algorithm: type[Optimizer], options: Mapping[str, inspect.Parameter]) -> str:
    """The help: what the class's own docstring says of its options, in one form."""
    from docstring_parser import parse

    described = {entry.arg_name: entry.description for entry in parse(inspect.getdoc(algorithm) or "").params}
    texts = {
        **described,
        "module": ARGUMENTS["module"],
        "weight_decay": ARGUMENTS["weight_decay"],
        **GroupOptions.texts(),
    }
    lines = [f"    {name}: {' '.join((texts.get(name) or name).split())}" for name in ("module", *options)]
    return "\n".join(["Args:", *lines, "", "Returns:", f"    A `{algorithm.__module__}.{algorithm.__name__}`."])


@OPTIMIZERS.register
def external(
    module: nn.Module,
    algorithm: Callable[[Iterable[Any]], Optimizer],
    matrix_weight_decay: float | None = None,
) -> Optimizer:
    """Any `torch.optim.Optimizer` subclass, from PyTorch, another package or your own file.

    Steps of classes other than PyTorch's work on copies of the gradients, since many of them change or drop `p.grad`.

    Args:
        module: The model; its trainable parameters are optimized.
        algorithm: What makes the optimizer from the parameters. In YAML `class_path: torch.optim.NAdam` with
            `init_args: {lr: 0.002}`, in Python `functools.partial(torch.optim.NAdam, lr=2e-3)`.
        matrix_weight_decay: Weight decay of matrices, embeddings and the output layer, at least 0; biases and
            normalization get none. None leaves decay to the algorithm, which applies its own to all parameters.

    Returns:
        The optimizer that `algorithm` makes.

    Raises:
        ValueError: if nothing is trainable, `algorithm` makes something else, or it has no `weight_decay`.
    """
    if matrix_weight_decay is not None:
        check_number("matrix_weight_decay", matrix_weight_decay)
    groups = parameter_groups(module, matrix_weight_decay or 0.0)
    if matrix_weight_decay is None:
        del groups[0]["weight_decay"]
    optimizer = algorithm(groups)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"algorithm must return a torch.optim.Optimizer, not a {type(optimizer).__name__}")
    if matrix_weight_decay is not None and "weight_decay" not in optimizer.defaults:
        raise ValueError(f"{type(optimizer).__name__} has no weight_decay: leave matrix_weight_decay out")
    if not type(optimizer).__module__.startswith("torch."):
        keep_gradients(optimizer)
    switch = getattr(optimizer, "train", None)
    if callable(switch):
        switch()  # schedule-free optimizers refuse to step in the mode for evaluation
    return keep_names(optimizer, module)
