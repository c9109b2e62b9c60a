"""From roles and rules to parameter groups: every trainable parameter in exactly one."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from steepest.common.parameter_names import parameter_names
from steepest.optim.checks import check_number
from steepest.optim.core.algorithm import ALGORITHMS
from steepest.optim.core.options import ALL_ALIKE, GroupOptions
from steepest.optim.core.roles import ParameterRole, Role, parameter_roles, settings_by_rules
from steepest.optim.core.width_scaling import WidthRule, width_factor, width_ratios
from steepest.optim.registry import unknown_name

Route = str | Callable[[ParameterRole], tuple[str, str]]


@dataclass(frozen=True)
class ParameterRow:
    """One row of the table that explains an optimizer's parameter groups; see `explain`."""

    name: str
    shape: tuple[int, ...]
    role: Role
    group: str
    algorithm: str
    learning_rate: float
    decay: float
    reason: str


def algorithm_groups(
    module: nn.Module,
    route: Route,
    *,
    lr: float,
    weight_decay: float,
    options: Mapping[str, Mapping[str, Any]],
    shared: GroupOptions = ALL_ALIKE,
) -> list[dict[str, Any]]:
    """Parameter groups for a `Composite`.

    Args:
        module: The model; its trainable parameters are grouped, shared ones once.
        route: The algorithm of every parameter by name, or a function of its role that returns the name and the reason.
        lr: Learning rate, multiplied by each parameter's `lr_scale` and layer factor.
        weight_decay: Decay of what decays by its role (optim/core/roles.py).
        options: By algorithm, the options of its groups; "lr" and "weight_decay" in them go before the common ones.
        shared: Rules and layer-wise learning rates.

    Returns:
        Groups with "params", "param_names", "name", "algorithm", "lr", "weight_decay", the algorithm's options, and
        "split" and "clip" where they are set. Tensors under one set of options form one group.

    Raises:
        ValueError: if nothing is trainable, a rule names an unknown algorithm or sets an option it does not have, or a
            value is out of range.
    """
    roles = parameter_roles(module)
    ratios = width_ratios(module)
    settings = []
    for role, scale, ruled in _ruled(module, roles, shared):
        algorithm, reason = (route, "") if isinstance(route, str) else route(role)
        if "algorithm" in ruled:
            algorithm, reason = ruled["algorithm"], f"rule ({ruled['rules'][-1]})"
        _check_algorithm(algorithm, ruled["options"])
        chosen = {**options.get(algorithm, {}), **ruled["options"]}
        decay = chosen.pop("weight_decay", weight_decay) if role.decay else 0.0
        chosen.pop("weight_decay", None)
        split = ruled.get("split", role.split)
        rule = ALGORITHMS[algorithm].width_rule({**chosen, "split": split}, role.parameter) if ratios else None
        width = width_factor(ratios.get(role.name), rule, f"algorithm {algorithm}")
        group = {
            **chosen,
            "algorithm": algorithm,
            "lr": chosen.get("lr", lr) * scale * width,
            "weight_decay": ruled.get("weight_decay", decay) / width,
        }
        if split != 1:
            group["split"] = split
        settings.append((role, {**group, **_only(ruled, "clip")}, _with_width(reason, width)))
    return _gathered(module, settings)


def torch_groups(
    module: nn.Module,
    *,
    weight_decay: float = 0.0,
    lr: float | None = None,
    shared: GroupOptions = ALL_ALIKE,
    allowed: Sequence[str] = (),
    width_rule: WidthRule | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer of a single algorithm, such as those of `torch.optim`.

    Args:
        module: The model.
        weight_decay: Decay of what decays by its role.
        lr: Learning rate, written into the groups where a rule or the layer scales it.
        shared: Rules, none of which may set "algorithm" or "split", and layer-wise learning rates.
        allowed: Options of the optimizer that a rule may set.
        width_rule: The algorithm's learning-rate factor for wider networks under muP (optim/core/width_scaling.py);
            None if it has none.

    Returns:
        Groups named "decay" and "no_decay", or "all" where everything decays alike.

    Raises:
        ValueError: as `algorithm_groups`.
    """
    check_number("weight_decay", weight_decay)
    ratios = width_ratios(module)
    settings = []
    for role, scale, ruled in _ruled(module, parameter_roles(module), shared):
        for key in ("algorithm", "split"):
            if key in ruled:
                raise ValueError(
                    f"rule ({ruled['rules'][-1]}) sets {key}, which this optimizer does not have: only muon, muon_sgd, "
                    "muon_adamw and composite"
                )
        for option in ruled["options"]:
            if option not in allowed:
                raise ValueError(unknown_name("option in a rule", option, list(allowed)))
        width = width_factor(ratios.get(role.name), width_rule, "this optimizer")
        decay = ruled.get("weight_decay", weight_decay if role.decay else 0.0) / width
        group = {**ruled["options"], "weight_decay": decay}
        if scale * width != 1:
            if lr is None:
                raise ValueError("a learning-rate scale needs an optimizer whose lr is its own option")
            group["lr"] = lr * scale * width
        settings.append((role, {**group, **_only(ruled, "clip")}, _with_width("", width)))
    return _gathered(module, settings)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of the trainable parameters by whether weight decay applies: `torch_groups` without rules."""
    return torch_groups(module, weight_decay=weight_decay)


def explain(module: nn.Module, groups: Optimizer | list[dict[str, Any]], algorithm: str = "") -> list[ParameterRow]:
    """Say for each trainable parameter which group it is in and why.

    Args:
        module: The model.
        groups: An optimizer over its parameters, or such an optimizer's groups.
        algorithm: Shown for groups that name none; empty takes the optimizer's class name.

    Returns:
        One row per trainable parameter, in the order of `module.named_parameters()`. The group of a parameter that no
        group holds is "-".
    """
    if isinstance(groups, Optimizer):
        algorithm = algorithm or type(groups).__name__
        groups = groups.param_groups
    places: dict[Any, tuple[str, dict[str, Any]]] = {
        parameter[1] if isinstance(parameter, tuple) else parameter: (str(group.get("name", index)), group)
        for index, group in enumerate(groups)
        for parameter in group["params"]
    }
    rows = []
    for role in parameter_roles(module):
        name, group = places.get(role.parameter, ("-", {}))
        reason = ", ".join(part for part in (role.reason, dict(group.get("reasons", ())).get(role.name, "")) if part)
        rows.append(
            ParameterRow(
                role.name,
                tuple(role.parameter.shape),
                role.role,
                name,
                str(group.get("algorithm", algorithm)) if group else "-",
                float(group.get("lr", 0.0)),
                float(group.get("weight_decay", 0.0)),
                reason,
            )
        )
    return rows


def _ruled(
    module: nn.Module, roles: Sequence[ParameterRole], shared: GroupOptions
) -> list[tuple[ParameterRole, float, dict[str, Any]]]:
    """Each parameter with its learning-rate factor and what the rules set for it."""
    if shared.layer_decay is not None:
        check_number("layer_decay", shared.layer_decay, high=1.0, include_low=False, include_high=True)
    scales = layer_scales(module, [role.name for role in roles], shared.layer_decay)
    ruled = settings_by_rules(roles, shared.rules)
    return [
        (role, scale * entry.get("lr_scale", 1.0), entry)
        for role, scale, entry in zip(roles, scales, ruled, strict=True)
    ]


def _gathered(module: nn.Module, settings: Sequence[tuple[ParameterRole, dict[str, Any], str]]) -> list[dict[str, Any]]:
    """One group for each set of options, in the order of its first parameter; decaying groups first."""
    groups: dict[str, dict[str, Any]] = {}
    names = parameter_names(module)
    for role, options, reason in settings:
        group = groups.setdefault(repr(sorted(options.items(), key=lambda item: item[0])), {**options, "params": []})
        group.setdefault("param_names", []).append(names[role.parameter])
        group["params"].append(role.parameter)
        if reason:
            group.setdefault("reasons", []).append((role.name, reason))
    ordered = sorted(groups.values(), key=lambda group: group["weight_decay"] == 0)
    for group, name in zip(ordered, _group_names(ordered), strict=True):
        group["name"] = name
    return ordered


def _group_names(groups: Sequence[dict[str, Any]]) -> list[str]:
    """Short names that tell the groups apart: by algorithm, by decay, then by number."""
    several_algorithms = len({group.get("algorithm") for group in groups}) > 1
    several_decays = len({group["weight_decay"] == 0 for group in groups}) > 1
    names = []
    for group in groups:
        parts = [group["algorithm"]] if several_algorithms else []
        alike = [g for g in groups if g.get("algorithm") == group.get("algorithm")] if several_algorithms else groups
        if several_decays and len(alike) > 1:
            parts.append("decay" if group["weight_decay"] else "no_decay")
        names.append("_".join(parts) or "all")
    counts = {name: names.count(name) for name in names}
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if counts[name] > 1:
            seen[name] = seen.get(name, 0) + 1
            names[index] = f"{name}_{seen[name]}"
    return names


def _check_algorithm(name: str, ruled_options: Mapping[str, Any]) -> None:
    if name not in ALGORITHMS:
        raise ValueError(unknown_name("algorithm", name, sorted(ALGORITHMS)))
    for option in ruled_options:
        if option not in ALGORITHMS[name].defaults and option != "weight_decay":
            raise ValueError(unknown_name(f"option of algorithm {name}", option, list(ALGORITHMS[name].defaults)))


def _with_width(reason: str, width: float) -> str:
    return ", ".join(part for part in (reason, f"muP: rate x {width:.4g}" if width != 1 else "") if part)


def _only(settings: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: settings[key] for key in keys if key in settings}


_THROUGH_FIRST_NUMBER = re.compile(r"^(.*?\.)?\d+(?=\.)")


def layer_depths(module: nn.Module, names: Sequence[str]) -> list[int]:
    """The layer of each parameter, counted from 0 at the input.

    A module may say it itself by a method `layer_id(name) -> int`. Otherwise what shares a numbered block
    ("blocks.3.") is one layer, any other owner of parameters is a layer of its own, in the order of the names.

    Args:
        module: The model.
        names: Names of its parameters in the order of `named_parameters()`.

    Returns:
        One depth for each name.
    """
    own = getattr(module, "layer_id", None)
    if callable(own):
        return [int(own(name)) for name in names]  # pyright: ignore[reportArgumentType]
    depths: dict[str, int] = {}
    return [depths.setdefault(_layer(name), len(depths)) for name in names]


def layer_scales(module: nn.Module, names: Sequence[str], decay: float | None) -> list[float]:
    """Learning-rate factor of each parameter: `decay` to the number of layers between it and the last (ELECTRA, BEiT).

    Args:
        module: The model.
        names: Names of its parameters in order.
        decay: Factor per layer, in (0, 1]; None for no decay: factors of 1.
    """
    if decay is None:
        return [1.0] * len(names)
    depths = layer_depths(module, names)
    return [decay ** (max(depths) - depth) for depth in depths]


def _layer(name: str) -> str:
    numbered = _THROUGH_FIRST_NUMBER.match(name)
    return numbered.group(0) if numbered else name.rpartition(".")[0]
