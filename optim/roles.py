"""The role of each parameter, read off the module that owns it, and the parameter groups that follow from it.

A name or a shape alone misleads: BatchNorm's scale is called `weight`, an embedding table is two-dimensional like a
hidden matrix. The module that owns a parameter decides.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import Optimizer

Role = Literal["matrix", "embedding", "head", "norm", "bias", "other"]

# As GPT-2 and nanoGPT do: whatever multiplies a vector of features decays, gains, offsets and scalars do not.
DECAYED: tuple[Role, ...] = ("matrix", "embedding", "head")

LINEAR = (nn.Linear, nn.Bilinear)
CONVOLUTION = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
MATRIX_OWNERS = (*LINEAR, *CONVOLUTION, *RECURRENT)
EMBEDDING = (nn.Embedding, nn.EmbeddingBag)
NORM_NAME = re.compile(r"Norm(\d+d)?$")
BIAS_NAME = re.compile(r"(^|_)bias(_|\d*$)")
EMBEDDING_NAME = re.compile(r"embed|position|(^|_)pos($|_)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ParameterRole:
    """What one trainable parameter is for.

    Attributes:
        name: Its name in `module.named_parameters()`.
        parameter: The parameter itself.
        role: "matrix" (hidden linear, convolution, attention and recurrent weights), "embedding" (token and position
            tables), "head" (weight of the output layer), "norm", "bias" or "other" (scalars, vectors).
        decay: Whether weight decay applies: to matrix, embedding and head.
        reason: Why it has this role, for people.
    """

    name: str
    parameter: nn.Parameter
    role: Role
    decay: bool
    reason: str


@dataclass(frozen=True)
class ParameterRow:
    """One row of the table that explains an optimizer's parameter groups; see `explain`."""

    name: str
    shape: tuple[int, ...]
    role: Role
    group: str
    decay: float
    reason: str


def parameter_roles(module: nn.Module, overrides: Mapping[str, Role] | None = None) -> list[ParameterRole]:
    """Give each trainable parameter of a module its role.

    The head is the last module in registration order that owns a matrix, if that is an `nn.Linear` outside an attention
    layer. A model without an output layer, or one that registers it before its body, needs `overrides`. A table shared
    by an embedding and the head is an embedding.

    Args:
        module: The model. Frozen parameters (`requires_grad=False`) are left out, shared ones appear once, under their
            first name.
        overrides: Roles by pattern of the parameter name (`{"decoder.*.weight": "matrix"}`, shell wildcards); the last
            pattern that fits wins.

    Returns:
        One entry per trainable parameter, in the order of `module.named_parameters()`.

    Raises:
        ValueError: if nothing is trainable, an override names no role that exists or fits no parameter.
    """
    overrides = overrides or {}
    for pattern, role in overrides.items():
        if role not in get_args(Role):
            raise ValueError(f"role {role!r} of {pattern!r} is unknown; allowed: {', '.join(get_args(Role))}")

    head = _head(module)
    found: dict[nn.Parameter, tuple[str, Role, str]] = {}
    for name, parameter, owner, place in _owned_parameters(module):
        if not parameter.requires_grad:
            continue
        if isinstance(parameter, nn.UninitializedParameter):
            raise ValueError(f"{name} has no shape yet: run a batch through the model before making its optimizer")
        role, reason = _role(name.rpartition(".")[2], parameter, owner, is_head=owner is head)
        if parameter not in found:
            found[parameter] = (name, role, reason)
        else:
            first_name, first_role, first_reason = found[parameter]
            kept = "embedding" if "embedding" in (role, first_role) else first_role
            found[parameter] = (first_name, kept, f"{first_reason}; shared with {place or 'the model'}")
    if not found:
        raise ValueError(f"{type(module).__name__} has no trainable parameters: nothing to optimize")

    unused = set(overrides)
    roles = []
    for parameter, (name, role, reason) in found.items():
        for pattern, override in overrides.items():
            if fnmatchcase(name, pattern):
                role, reason = override, f"override {pattern!r}"
                unused.discard(pattern)
        roles.append(ParameterRole(name, parameter, role, role in DECAYED, reason))
    if unused:
        raise ValueError(f"role override {sorted(unused)[0]!r} fits no trainable parameter of {type(module).__name__}")
    return roles


def parameter_groups(
    module: nn.Module, weight_decay: float, overrides: Mapping[str, Role] | None = None
) -> list[dict[str, Any]]:
    """Split the trainable parameters of a module by whether weight decay applies.

    Args:
        module: The model.
        weight_decay: Decay of the matrices, the embeddings and the head; everything else gets 0.
        overrides: As in `parameter_roles`.

    Returns:
        Groups for any `torch.optim.Optimizer`, named "decay" and "no_decay", or one named "all" when both would decay
        alike (`weight_decay` is 0, or one of them is empty).

    Raises:
        ValueError: as `parameter_roles`.
    """
    roles = parameter_roles(module, overrides)
    decay = [role.parameter for role in roles if role.decay]
    no_decay = [role.parameter for role in roles if not role.decay]
    if weight_decay == 0 or not decay or not no_decay:
        used = weight_decay if decay else 0.0
        return [{"params": [role.parameter for role in roles], "name": "all", "weight_decay": used}]
    return [
        {"params": decay, "name": "decay", "weight_decay": weight_decay},
        {"params": no_decay, "name": "no_decay", "weight_decay": 0.0},
    ]


def explain(module: nn.Module, groups: Optimizer | list[dict[str, Any]]) -> list[ParameterRow]:
    """Say for each trainable parameter which group it is in and why.

    Args:
        module: The model.
        groups: An optimizer over its parameters, or such an optimizer's groups.

    Returns:
        One row per trainable parameter, in the order of `module.named_parameters()`. The group of a parameter that no
        group holds is "-".
    """
    if isinstance(groups, Optimizer):
        groups = groups.param_groups
    places = {
        parameter: (str(group.get("name", index)), float(group.get("weight_decay", 0.0)))
        for index, group in enumerate(groups)
        for parameter in group["params"]
    }
    return [
        ParameterRow(
            role.name, tuple(role.parameter.shape), role.role, *places.get(role.parameter, ("-", 0.0)), role.reason
        )
        for role in parameter_roles(module)
    ]


def _owned_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module, str]]:
    """Each parameter under each of its names: name, parameter, the module that owns it and that module's name."""
    modules = dict(module.named_modules(remove_duplicate=False))
    for place, owner in modules.items():
        if isinstance(owner, ParametrizationList):
            # `layer.parametrizations.weight`: the layer is what the parameter is for.
            owner = modules[place.rpartition(".")[0].rpartition(".")[0]]
        for name, parameter in modules[place].named_parameters(recurse=False):
            yield f"{place}.{name}" if place else name, parameter, owner, place


def _head(module: nn.Module) -> nn.Module | None:
    """The output layer: the last module in registration order that owns a matrix, if it is linear."""
    inside_attention = {
        child
        for attention in module.modules()
        if isinstance(attention, nn.MultiheadAttention)
        for child in attention.modules()
    }
    last = None
    for candidate in module.modules():
        if isinstance(candidate, MATRIX_OWNERS) or candidate in inside_attention:
            last = candidate
    return last if isinstance(last, nn.Linear) and last not in inside_attention else None


def _role(name: str, parameter: nn.Parameter, owner: nn.Module, *, is_head: bool) -> tuple[Role, str]:
    """Role of a parameter, from the module that owns it, then its own name, then its shape; and the reason."""
    kind = type(owner).__name__
    if any(NORM_NAME.search(base.__name__) for base in type(owner).__mro__):
        return "norm", f"{name} of {kind}"
    if BIAS_NAME.search(name):
        return "bias", f"{name} of {kind}"
    if isinstance(owner, EMBEDDING):
        return "embedding", f"table of {kind}"
    is_vector = sum(size > 1 for size in parameter.shape) < 2
    if isinstance(owner, MATRIX_OWNERS) and parameter.ndim >= 2 and not _is_gain(name, parameter):
        return ("head", f"{kind}, the last layer") if is_head else ("matrix", f"{name} of {kind}")
    if is_vector:
        return "other", "scalar" if parameter.numel() == 1 else "vector"
    if EMBEDDING_NAME.search(name):
        return "embedding", "embedding by its name"
    return "matrix", f"{parameter.ndim}-dimensional {name} of {kind}"


def _is_gain(name: str, parameter: nn.Parameter) -> bool:
    """Whether this is the gain of weight normalization: called `original0` or `weight_g`, one number per output."""
    return name in ("original0", "weight_g") and sum(size > 1 for size in parameter.shape) < 2
