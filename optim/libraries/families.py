"""Families: every optimizer of another package by name, `zoo_lion` and `timm_lamb`, made when it is first asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any


@dataclass(frozen=True)
class Family:
    """Optimizers of one package.

    Attributes:
        prefix: What their names begin with, before an underscore.
        requires: The extra that brings the package.
        summary: What they are, in one line.
        names: Lists the package's own names; only called when the package is installed.
        make: Makes the factory function of one of these names, called `<prefix>_<name>`.
        left_out: Names of the package that are not offered, with the reason.
    """

    prefix: str
    requires: str
    summary: str
    names: Callable[[], list[str]]
    make: Callable[[str], Callable[..., Any]]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def members(self) -> list[str]:
        """All names with the prefix, in alphabetical order.

        Raises:
            MissingExtraError: if the package is not installed.
        """
        require(self.requires, f"optimizer '{self.prefix}_*'")
        return [f"{self.prefix}_{name}" for name in sorted(self.names())]

    def find(self, name: str) -> str | None:
        """The member that a name means, whatever its case and hyphens; None if there is none.

        Raises:
            ValueError: if it begins like a member and the package is not installed, or it is left out.
        """
        plain = name.lower().replace("-", "_")
        if not plain.startswith(f"{self.prefix}_"):
            return None
        require(self.requires, f"optimizer {name!r}")
        wanted = plain.removeprefix(f"{self.prefix}_").replace("_", "")
        if wanted in self.left_out:
            raise ValueError(f"optimizer {name!r} is not supported: {self.left_out[wanted]}")
        by_key = {member.lower().replace("_", ""): member for member in self.names()}
        return f"{self.prefix}_{by_key[wanted]}" if wanted in by_key else None


# What is imported, by the extra that installs it (pyproject.toml).
EXTRAS = {"zoo": "pytorch_optimizer", "timm": "timm", "schedule_free": "schedulefree"}


class MissingExtraError(ValueError):
    """Something was chosen whose package is not installed."""


def is_installed(extra: str) -> bool:
    """Whether the package of an extra can be imported; it is not imported.

    Raises:
        ValueError: if there is no such extra.
    """
    if extra not in EXTRAS:
        raise ValueError(f"unknown extra {extra!r}. Allowed: {', '.join(EXTRAS)}")
    return find_spec(EXTRAS[extra]) is not None


def require(extra: str, what: str) -> None:
    """Refuse to go on without the package of an extra.

    Args:
        extra: Name of the extra.
        what: What needs it, for the message: "optimizer 'zoo_lion'".

    Raises:
        MissingExtraError: if the package is not installed.
    """
    if not is_installed(extra):
        raise MissingExtraError(f"{what} needs the extra {extra}: pip install 'steepest[{extra}]'")
