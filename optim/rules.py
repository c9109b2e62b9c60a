"""Rules that give chosen parameters their own algorithm, learning rate, decay or clipping."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, get_args

from optim.checks import check_number
from optim.roles import ParameterRole, Role

_CONDITIONS = ("name", "module", "role", "ndim")


@dataclass(frozen=True)
class ParameterRule:
    """What holds for the parameters that meet all conditions; of several rules the last that sets something wins.

    Attributes:
        name: Condition on the name in `named_parameters()`, with shell wildcards: "blocks.*.attention.*".
        module: Condition on the class name of the module that owns it, with shell wildcards: "Conv*".
        role: Condition on the role (optim/roles.py): "matrix", "input", "embedding", "head", "norm", "bias", "other".
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
    """What the rules set for each parameter; warns of each rule that fits none.

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
            warnings.warn(f"parameter rule ({rule}) fits no trainable parameter", stacklevel=2)
        for entry in fitting:
            set_here = dict(rule.settings)
            entry["options"] = {**entry["options"], **set_here.pop("options", {})}
            entry |= set_here
            entry["rules"].append(str(rule))
    return settings
