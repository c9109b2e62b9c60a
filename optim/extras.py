"""Optional packages: which extra of Steepest brings them, and the one line that says so when they are absent."""

from importlib.util import find_spec

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
