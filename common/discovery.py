"""What lies in a package's folder: its modules are imported, the classes in them get short names."""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any


def import_modules(package: str) -> list[ModuleType]:
    """Import every module below a package, so that what registers itself there is known.

    Args:
        package: Full name of the package. Not its `__name__`: in a checkout, configs from before import it by its bare
            name as well, and every class must be there once.

    Returns:
        The modules, in alphabetical order.
    """
    found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    return [importlib.import_module(module.name) for module in found]


def offer_classes(package: str, base: type, namespace: dict[str, Any]) -> None:
    """Make the classes in a package's modules names of the package, and these names its `__all__`.

    A module offers the subclasses of `base` that it defines, without abstract ones and those with a leading
    underscore. If it has an `__all__`, it offers those named there only.

    Args:
        package: Full name of the package.
        base: What the classes are.
        namespace: The package's `globals()`.

    Raises:
        ValueError: If two modules offer the same name.
    """
    offered: dict[str, type] = {}
    for module in import_modules(package):
        for name in getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]):
            found = getattr(module, name)
            is_ours = isinstance(found, type) and issubclass(found, base) and found.__module__ == module.__name__
            if not is_ours or inspect.isabstract(found):
                continue
            if name in offered:
                raise ValueError(
                    f"{name} is in {offered[name].__module__} and in {module.__name__}: rename one of them"
                )
            offered[name] = found
    namespace.update(offered, __all__=sorted(offered))
