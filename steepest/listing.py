"""`steepest list`: what can be chosen by name."""

import inspect
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from steepest.one_line_parser import OneLineParser

KINDS = ("optimizers", "solvers", "schedules", "clippings", "models", "data", "callbacks")


def run_list(words: Sequence[str]) -> None:
    """Print the entries of one kind, draw schedules, or say which parameter an optimizer treats how.

    Args:
        words: The kind, an optional pattern such as '*sgd*', `--explain NETWORK` for optimizers and
            `--plot FILE` for schedules.
    """
    parser = OneLineParser(prog="steepest list", description="List what can be chosen by name.")
    parser.add_argument("kind", nargs="?", help=f"what to list: {', '.join(KINDS)}")
    parser.add_argument("pattern", nargs="?", default="*", help="only names that fit, such as '*adam*'")
    parser.add_argument(
        "--explain",
        metavar="NETWORK",
        help="optimizers only: how the optimizer that the pattern names treats each parameter of a network, by short "
        "name or import path (DeepMLP, torchvision.models.resnet18)",
    )
    parser.add_argument("--plot", metavar="FILE", help="schedules only: draw them into a .png or .svg file")
    options = parser.parse_args(list(words))
    if options.kind is None:
        raise ValueError(f"list what? Give one of {', '.join(KINDS)}")
    if options.kind not in KINDS:
        from optim.registry import unknown_name

        raise ValueError(unknown_name("kind", options.kind, list(KINDS)))
    if options.explain is not None:
        if options.kind != "optimizers":
            raise ValueError(f"--explain belongs to `steepest list optimizers`, not to {options.kind}")
        _explain(options.explain, "adamw" if options.pattern == "*" else options.pattern)
        return
    if options.plot is not None and options.kind != "schedules":
        raise ValueError(f"--plot belongs to `steepest list schedules`, not to {options.kind}")
    rows = _rows(options.kind, options.pattern)
    if not rows:
        names = ", ".join(row[0] for row in _rows(options.kind))
        raise ValueError(f"no {options.kind} fit {options.pattern!r}; there are: {names}")
    if options.plot is not None:
        from steepest.plots import plot_schedules

        plot_schedules([row[0] for row in rows], Path(options.plot))
        print(f"figure: {options.plot}")
        return
    last = "tangency" if options.kind == "solvers" else "options and defaults"
    # Cut off, an option's name is of no use.
    table = Table("name", Column("what it is", overflow="fold"), Column(last, overflow="fold"))
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def _rows(kind: str, pattern: str = "*") -> list[tuple[str, str, str]]:
    """Name, summary and options of what fits a pattern."""
    if kind in ("optimizers", "schedules", "clippings"):
        return _registered(kind, pattern)
    return [row for row in _others(kind) if fnmatch(row[0].lower(), pattern.lower())]


def _registered(kind: str, pattern: str) -> list[tuple[str, str, str]]:
    from optim.extras import is_installed
    from optim.registry import REGISTRIES

    registry = next(registry for registry in REGISTRIES if kind == f"{registry.kind}s")
    rows = []
    for name in registry:
        if any(fnmatch(known, pattern.lower()) for known in (name, *registry.aliases(name))):
            extra = registry.missing_extra(name)
            note = f" Not installed: pip install 'steepest[{extra}]'." if extra else ""
            also = f" Also {', '.join(registry.aliases(name))}." if registry.aliases(name) else ""
            rows.append((name, registry.summary(name) + also + note, _shown(registry.options(name))))
    for prefix, family in registry.families.items():
        if not is_installed(family.requires):
            summary = f"{family.summary} Not installed: pip install 'steepest[{family.requires}]'."
            rows += [(f"{prefix}_*", summary, "")] if fnmatch(f"{prefix}_", pattern.lower()) else []
        elif pattern == "*":
            rows.append(
                (f"{prefix}_*", f"{family.summary} Listed by '{prefix}_*'.", f"{len(family.members())} of them")
            )
        else:
            members = [name for name in family.members() if fnmatch(name.lower(), pattern.lower())]
            rows += [(name, registry.summary(name), _shown(registry.options(name))) for name in members]
    return rows


def _others(kind: str) -> list[tuple[str, str, str]]:
    if kind == "solvers":
        from optim.solvers import SOLVERS

        return [
            (name, solver.summary, "with tangency" if solver.supports_tangency else "without tangency")
            for name, solver in SOLVERS.items()
        ]
    if kind == "models":
        import lightning_modules
        from lightning_modules import networks, objectives

        modules = [name for name in lightning_modules.__all__ if name != "BaseModule"]
        functions = [name for name in objectives.__all__ if name != "Objective"]
        listed = ((lightning_modules, modules), (networks, networks.__all__), (objectives, functions))
        return [row for package, names in listed for row in _classes(package, names)]
    if kind == "data":
        import datamodules

        return _classes(datamodules, datamodules.__all__)
    import callbacks

    return _classes(callbacks, callbacks.__all__)


def _classes(package: Any, names: Sequence[str]) -> list[tuple[str, str, str]]:
    rows = []
    for name in sorted(names):
        found = getattr(package, name)
        summary = (inspect.getdoc(found) or "").splitlines()[0]
        rows.append((name, summary, _shown(_parameters(found))))
    return rows


def _parameters(found: type) -> dict[str, inspect.Parameter]:
    # What a class passes on by **kwargs are options of its base.
    parameters: dict[str, inspect.Parameter] = {}
    for base in found.__mro__:
        own = dict(list(inspect.signature(base.__init__).parameters.items())[1:])
        parameters |= {name: parameter for name, parameter in own.items() if name not in parameters}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return parameters


def _shown(parameters: dict[str, inspect.Parameter]) -> str:
    shown = []
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        shown.append(name if parameter.default is parameter.empty else f"{name}={parameter.default!r}")
    return ", ".join(shown)


def _explain(network: str, optimizer: str) -> None:
    from optim import OPTIMIZERS
    from optim.grouping import explain
    from steepest.explanation import EXPLAINED, cells

    module = _network(network)
    built = OPTIMIZERS.create(optimizer, module)
    table = Table(*EXPLAINED, title=f"{optimizer} on {network}")
    for row in explain(module, built):
        table.add_row(*cells(row))
    Console().print(table)


def _network(name: str) -> Any:
    from importlib import import_module

    from torch import nn

    from lightning_modules import networks
    from optim.registry import unknown_name

    path, _, last = name.rpartition(".")
    try:
        found = getattr(import_module(path) if path else networks, last)
    except (ImportError, AttributeError):
        raise ValueError(unknown_name("network", name, [*networks.__all__, "or an import path"])) from None
    try:
        module = found()
    except TypeError as error:
        raise ValueError(
            f"{name} needs arguments, --explain takes networks that have defaults for all: {error}"
        ) from None
    if not isinstance(module, nn.Module):
        raise ValueError(f"{name} makes a {type(module).__name__}, not an nn.Module")
    return module
