"""Optimizer state is matched by parameter name when it is loaded; PyTorch alone matches by position.

By position, a model whose layers were reordered would take up the momentum of other layers without a word.
"""

from collections import Counter
from typing import Any

from torch import nn
from torch.optim import Optimizer

from steepest.common.parameter_names import parameter_names


def keep_names(optimizer: Optimizer, module: nn.Module) -> Optimizer:
    """Note the names of the parameters in the groups (saved with them) and match by them in `load_state_dict`.

    Args:
        optimizer: Any optimizer over parameters of the module.
        module: Gives the names.

    Returns:
        The same optimizer.
    """
    names = parameter_names(module)
    for group in optimizer.param_groups:
        group["param_names"] = [names.get(parameter, "?") for parameter in group["params"]]
    optimizer.register_load_state_dict_pre_hook(matched_by_name)
    return optimizer


def matched_by_name(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Bring a saved state into the order of an optimizer's own parameters.

    Args:
        optimizer: Its groups hold "param_names"; if they or the saved ones do not, the order is trusted, as in PyTorch.
        state_dict: What `state_dict()` of such an optimizer returned. It is not changed.

    Returns:
        The state to load.

    Raises:
        ValueError: if the groups hold other parameters, or a parameter of another shape; naming the first of them.
    """
    saved, own = state_dict["param_groups"], optimizer.param_groups
    if not all("param_names" in group for group in (*saved, *own)):
        return state_dict
    own_names = [group["param_names"] for group in own]
    saved_names = named_as_now([group["param_names"] for group in saved], own_names)
    _check_same_names(saved_names, own_names)

    of_parameters = {index for group in saved for index in group["params"]}
    state = {key: entry for key, entry in state_dict["state"].items() if key not in of_parameters}
    groups, position = [], 0
    by_members = {frozenset(names): (names, group) for names, group in zip(saved_names, saved, strict=True)}
    for group in own:
        source_names, source = by_members[frozenset(group["param_names"])]
        indices = dict(zip(source_names, source["params"], strict=True))
        new_indices = []
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            entry = state_dict["state"].get(indices[name])
            if entry is not None:
                _check_shape(name, parameter.shape, entry)
                state[position] = entry
            new_indices.append(position)
            position += 1
        groups.append({**source, "params": new_indices, "param_names": list(group["param_names"])})
    return {**state_dict, "state": state, "param_groups": groups}


def named_as_now(saved: list[list[str]], own: list[list[str]]) -> list[list[str]]:
    """The names in saved groups as a state of today would have them.

    Names were saved without a leading "module." once, whether a wrapper or the user had put it there.

    Raises:
        ValueError: if two parameters were saved under one name.
    """
    counts = Counter(name for names in saved for name in names)
    for name, count in counts.items():
        if count > 1:
            raise ValueError(f"the saved optimizer state has {count} parameters called {name!r} and cannot be matched")
    today = [name for names in own for name in names]
    by_former = {_former_name(name): name for name in today}
    if counts.keys() == set(today) or counts.keys() != by_former.keys() or len(by_former) < len(today):
        return saved
    return [[by_former[name] for name in names] for names in saved]


def _former_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod").removeprefix("module.")


def _check_same_names(saved: list[list[str]], own: list[list[str]]) -> None:
    saved_names = {name for names in saved for name in names}
    own_names = {name for names in own for name in names}
    for missing in sorted(own_names - saved_names):
        raise ValueError(f"the saved optimizer state has no parameter {missing!r}: it belongs to another model")
    for unexpected in sorted(saved_names - own_names):
        raise ValueError(f"the saved optimizer state has a parameter {unexpected!r} that the model does not have")
    places = {name: frozenset(names) for names in saved for name in names}
    for names in own:
        for name in names:
            if places[name] != frozenset(names):
                raise ValueError(
                    f"parameter {name!r} was saved in another parameter group: use the options (rules, weight decay) "
                    "of the saved run"
                )


def _check_shape(name: str, shape: Any, entry: dict[str, Any]) -> None:
    # State of these names is an entry for an entry of the parameter, in all of PyTorch's optimizers and ours.
    for key, value in entry.items():
        if (
            key in ("exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg")
            and getattr(value, "shape", shape) != shape
        ):
            raise ValueError(
                f"the saved state {key!r} of parameter {name!r} has shape {tuple(value.shape)}, the parameter "
                f"{tuple(shape)}: it belongs to another model"
            )
