"""The role of each parameter, read off the module that owns it.

A name or a shape alone misleads: BatchNorm's scale is called `weight`, an embedding table is two-dimensional like a
hidden matrix. The module that owns a parameter decides.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from steepest.optim.checks import check_number
from steepest.optim.core.layout import shares_entries

Role = Literal["matrix", "input", "embedding", "head", "norm", "bias", "other"]

# As GPT-2 and nanoGPT do: whatever multiplies a vector of features decays, gains, offsets and scalars do not.
DECAYED: tuple[Role, ...] = ("matrix", "input", "embedding", "head")

LINEAR = (nn.Linear, nn.Bilinear)
CONVOLUTION = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
MATRIX_OWNERS = (*LINEAR, *CONVOLUTION, *RECURRENT)
EMBEDDING = (nn.Embedding, nn.EmbeddingBag)
NORM_NAME = re.compile(r"Norm(\d+d)?$")
BIAS_NAME = re.compile(r"(^|_)bias(_|\d*$)")
FUSED_NAME = re.compile(r"(^|[._])(qkv|c_attn|in_proj|query_key_value)$")
EMBEDDING_NAME = re.compile(r"embed|position|(^|_)pos($|_)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ParameterRole:
    """What one trainable parameter is for.

    Attributes:
        name: Its name in `module.named_parameters()`.
        parameter: The parameter itself.
        role: "matrix" (hidden linear, convolution, attention and recurrent weights), "input" (weight of the first
            layer), "embedding" (token and position tables), "head" (weight of the output layer), "norm", "bias" or
            "other" (scalars, vectors).
        decay: Whether weight decay applies: to matrix, input, embedding and head.
        reason: Why it has this role, for people.
        owner: Class name of the module that owns it.
        split: Number of matrices stacked in its rows: 3 for the fused query, key and value of attention, else 1.
    """

    name: str
    parameter: nn.Parameter
    role: Role
    decay: bool
    reason: str
    owner: str
    split: int


def parameter_roles(module: nn.Module, overrides: Mapping[str, Role] | None = None) -> list[ParameterRole]:
    """Give each trainable parameter of a module its role.

    The head is the last module in registration order that owns a matrix, if that is an `nn.Linear` outside an attention
    layer; the input is the first one, if it is linear or a convolution and no embedding stands before it. A model
    without an output layer, or one that registers it before its body, needs `overrides`. A table shared by an embedding
    and the head is an embedding.

    Args:
        module: The model. Frozen parameters (`requires_grad=False`) are left out, shared ones appear once, under their
            first name.
        overrides: Roles by pattern of the parameter name (`{"decoder.*.weight": "matrix"}`, shell wildcards); the last
            pattern that fits wins.

    Returns:
        One entry per trainable parameter, in the order of `module.named_parameters()`.

    Raises:
        ValueError: if nothing is trainable, entries of a parameter share memory, an override names an unknown role or
            matches no parameter.
    """
    overrides = overrides or {}
    for pattern, role in overrides.items():
        if role not in get_args(Role):
            raise ValueError(f"role {role!r} of {pattern!r} is unknown; allowed: {', '.join(get_args(Role))}")

    first, last = _first_layer(module), _head(module)
    found: dict[nn.Parameter, tuple[str, Role, str]] = {}
    owners: dict[nn.Parameter, nn.Module] = {}
    for name, parameter, owner, place in _owned_parameters(module):
        if not parameter.requires_grad:
            continue
        if isinstance(parameter, nn.UninitializedParameter):
            raise ValueError(f"{name} has no shape yet: run a batch through the model before making its optimizer")
        if shares_entries(parameter):
            raise ValueError(f"entries of {name} share memory, as after expand: give it its own by .clone()")
        ends = {"head": owner is last, "input": owner is first}
        role, reason = _role(name.rpartition(".")[2], parameter, owner, ends)
        if parameter not in found:
            found[parameter] = (name, role, reason)
            owners[parameter] = owner
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
        owner = owners[parameter]
        split = _stacked(name, parameter, owner)
        roles.append(ParameterRole(name, parameter, role, role in DECAYED, reason, type(owner).__name__, split))
    if unused:
        raise ValueError(
            f"role override {sorted(unused)[0]!r} matches no trainable parameter of {type(module).__name__}"
        )
    return roles


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
    inside_attention = _inside_attention(module)
    last = None
    for candidate in module.modules():
        if isinstance(candidate, MATRIX_OWNERS) or candidate in inside_attention:
            last = candidate
    return last if isinstance(last, nn.Linear) and last not in inside_attention else None


def _first_layer(module: nn.Module) -> nn.Module | None:
    """The layer that meets the data: the first one in registration order that owns a matrix or a table."""
    inside_attention = _inside_attention(module)
    for candidate in module.modules():
        if isinstance(candidate, (*MATRIX_OWNERS, *EMBEDDING)) or candidate in inside_attention:
            is_layer = isinstance(candidate, (nn.Linear, *CONVOLUTION)) and candidate not in inside_attention
            return candidate if is_layer else None
    return None


def _inside_attention(module: nn.Module) -> set[nn.Module]:
    attentions = (child for child in module.modules() if isinstance(child, nn.MultiheadAttention))
    return {child for attention in attentions for child in attention.modules()}


def _stacked(name: str, parameter: nn.Parameter, owner: nn.Module) -> int:
    """How many matrices stand on top of each other in a weight."""
    own_name = name.rpartition(".")[2]
    if isinstance(owner, nn.MultiheadAttention) and own_name == "in_proj_weight":
        return 3
    is_fused = FUSED_NAME.search(name.rpartition(".")[0]) is not None and own_name == "weight"
    is_fused &= parameter.ndim == 2 and parameter.shape[0] == 3 * parameter.shape[1]
    return 3 if is_fused else 1


def _role(name: str, parameter: nn.Parameter, owner: nn.Module, ends: Mapping[str, bool]) -> tuple[Role, str]:
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
        if ends["head"]:
            return "head", f"{kind}, the last layer"
        return ("input", f"{kind}, the first layer") if ends["input"] else ("matrix", f"{name} of {kind}")
    if is_vector:
        return "other", "scalar" if parameter.numel() == 1 else "vector"
    if EMBEDDING_NAME.search(name):
        return "embedding", "embedding by its name"
    return "matrix", f"{parameter.ndim}-dimensional {name} of {kind}"


def _is_gain(name: str, parameter: nn.Parameter) -> bool:
    """Whether this is the gain of weight normalization: called `original0` or `weight_g`, one number per output."""
    return name in ("original0", "weight_g") and sum(size > 1 for size in parameter.shape) < 2


_CONDITIONS = ("name", "module", "role", "ndim")


@dataclass(frozen=True)
class ParameterRule:
    """What holds for the parameters that meet all conditions; of several rules the last that sets something wins.

    Attributes:
        name: Condition on the name in `named_parameters()`, with shell wildcards: "blocks.*.attention.*".
        module: Condition on the class name of the module that owns it, with shell wildcards: "Conv*".
        role: Condition on the role (optim/core/roles.py): "matrix", "input", "embedding", "head", "norm", "bias",
            "other".
        ndim: Condition on the number of dimensions.
        algorithm: Update rule by name, for optimizers that hold several: "adamw".
        lr_scale: Factor of the learning rate, at least 0.
        weight_decay: In place of the optimizer's, at least 0; also for what otherwise does not decay.
        split: Number of matrices stacked in the rows of a weight, for optimizers of matrices.
        clip: Threshold of the gradient clipping in use for these parameters by themselves, or "none" for no clipping.
        options: Other options of the algorithm: {"momentum": 0.8}.
    """

    name: str | None = None
    module: str | None = None
    role: Role | None = None
    ndim: int | None = None
    algorithm: str | None = None
    lr_scale: float | None = None
    weight_decay: float | None = None
    split: int | None = None
    clip: float | str | None = None
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.role is not None and self.role not in get_args(Role):
            raise ValueError(f"role {self.role!r} of a rule is unknown; allowed: {', '.join(get_args(Role))}")
        if not self.settings:
            raise ValueError(
                f"rule ({self}) sets nothing: give algorithm, lr_scale, weight_decay, split, clip or options"
            )
        if self.lr_scale is not None:
            check_number(f"lr_scale of rule ({self})", self.lr_scale)
        if self.weight_decay is not None:
            check_number(f"weight_decay of rule ({self})", self.weight_decay)
        if self.split is not None and (isinstance(self.split, bool) or self.split < 1):
            raise ValueError(f"split of rule ({self}) must be a whole number, at least 1, not {self.split!r}")
        if isinstance(self.clip, str) and self.clip != "none":
            raise ValueError(f"clip of rule ({self}) must be a number above 0 or 'none', not {self.clip!r}")
        if isinstance(self.clip, int | float):
            check_number(f"clip of rule ({self})", self.clip, include_low=False)

    def __str__(self) -> str:
        return (
            ", ".join(f"{key} {getattr(self, key)!r}" for key in _CONDITIONS if getattr(self, key) is not None) or "all"
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What the rule sets, by attribute name."""
        names = [field.name for field in fields(self) if field.name not in _CONDITIONS]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def fits(self, role: ParameterRole) -> bool:
        """Whether a parameter meets all conditions."""
        return (
            (self.name is None or fnmatchcase(role.name, self.name))
            and (self.module is None or fnmatchcase(role.owner, self.module))
            and (self.role is None or role.role == self.role)
            and (self.ndim is None or role.parameter.ndim == self.ndim)
        )


def settings_by_rules(roles: Sequence[ParameterRole], rules: Sequence[ParameterRule]) -> list[dict[str, Any]]:
    """What the rules set for each parameter; warns of each rule that matches none.

    Args:
        roles: The parameters.
        rules: In order; a later rule overrides what an earlier one set.

    Returns:
        One dictionary per parameter, with "options" merged and "rules" naming the rules that took part.
    """
    settings: list[dict[str, Any]] = [{"options": {}, "rules": []} for _ in roles]
    for rule in rules:
        fitting = [entry for role, entry in zip(roles, settings, strict=True) if rule.fits(role)]
        if not fitting:
            warnings.warn(f"parameter rule ({rule}) matches no trainable parameter", stacklevel=2)
        for entry in fitting:
            set_here = dict(rule.settings)
            entry["options"] = {**entry["options"], **set_here.pop("options", {})}
            entry |= set_here
            entry["rules"].append(str(rule))
    return settings
