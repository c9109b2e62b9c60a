"""Import paths that have changed: those in configs and checkpoints from before all of Steepest was below `steepest`."""

from argparse import Namespace
from importlib import import_module, util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

# Top-level packages that are now parts of `steepest`: `callbacks.Checkpoints` is `steepest.callbacks.Checkpoints`.
FORMER_PACKAGES = ("callbacks", "datamodules", "lightning_modules", "optim")


def present_path(path: str) -> str:
    """The import path that takes the place of a former one; every other path unchanged.

    A user's own package of that name goes first: then the path means what it says.
    """
    package, _, rest = path.partition(".")
    return f"steepest.{path}" if rest and package in FORMER_PACKAGES and not _is_users(package) else path


def _is_users(package: str) -> bool:
    found = util.find_spec(package)
    if found is None or found.origin is None:
        return found is not None
    # In a checkout our own folders can be found by their bare names, too.
    return not (Path(found.origin).parent.parent / "steepest" / "cli.py").is_file()


def looked_into(path: str) -> str:
    """What to add to a message about an import path that is not found: where was looked, and what may be meant."""
    parts = path.split(".")
    package, found = parts[0], None
    for length in range(1, len(parts)):  # the innermost module of the path that there is
        found = _module(".".join(parts[:length])) or found
    if found is None:
        return ""
    place = found.origin or ", ".join(found.submodule_search_locations or ())
    meant = f"; Steepest's own is steepest.{path}" if package in FORMER_PACKAGES and _leads_somewhere(path) else ""
    return f" (looked into {place}{meant})"


def _module(path: str) -> ModuleSpec | None:
    try:
        return util.find_spec(path)
    except ImportError:
        return None


def _leads_somewhere(path: str) -> bool:
    module, _, name = f"steepest.{path}".rpartition(".")
    try:
        return hasattr(import_module(module), name)
    except ImportError:
        return False


def use_present_paths(options: Any) -> None:
    """Make every `class_path` a present one, in place.

    Args:
        options: Mappings and lists, or the Namespaces that a parser makes of them; anything else is left alone.
    """
    if isinstance(options, list):
        for value in options:
            use_present_paths(value)
    elif isinstance(options, dict | Namespace):
        values = options if isinstance(options, dict) else vars(options)
        for key, value in values.items():
            if key == "class_path" and isinstance(value, str):
                values[key] = present_path(value)
            else:
                use_present_paths(value)
