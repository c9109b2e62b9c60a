"""`steepest list`: what can be chosen by name, how schedules run, and what an optimizer does with each parameter.

What needs Lightning is imported where it is listed: optimizers and schedules are listed without it, and sooner.
"""

import inspect
import math
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from torch import nn

from steepest.common.plotting import BLUE, DOTS_PER_INCH
from steepest.errors import OneLineParser
from steepest.optim import OPTIMIZERS, SCHEDULES
from steepest.optim.core.grouping import explain
from steepest.optim.libraries.families import is_installed
from steepest.optim.registry import REGISTRIES, unknown_name
from steepest.optim.schedules import factor_function
from steepest.optim.spectral.solvers import SOLVERS
from steepest.shipped import first_line, shipped

SHIPPED = ("configs", "studies")
KINDS = ("optimizers", "solvers", "schedules", "clippings", "models", "data", "callbacks", *SHIPPED)

# Of the figure of schedules.
SUFFIXES = (".png", ".svg")
STEPS = 1000  # of the run that is drawn
COLUMNS = 4


def run_list(words: Sequence[str]) -> None:
    """Print the entries of one kind, draw schedules, or say which parameter an optimizer treats how.

    Args:
        words: The kind, an optional pattern such as '*sgd*', `--explain NETWORK` for optimizers and
            `--plot FILE` for schedules.
    """
    parser = OneLineParser(prog="steepest list", description="List what can be chosen by name.")
    parser.add_argument("kind", nargs="?", help=f"what to list: {', '.join(KINDS)}")
    parser.add_argument("pattern", nargs="?", default="*", help="only names that match, such as '*adam*'")
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
        raise ValueError(f"no {options.kind} match {options.pattern!r}; there are: {names}")
    if options.plot is not None:
        plot_schedules([row[0] for row in rows], Path(options.plot))
        print(f"figure: {options.plot}")
        return
    columns = ["what it is"]
    if options.kind not in SHIPPED:
        columns.append("tangency" if options.kind == "solvers" else "options and defaults")
    # Cut off, an option's name is of no use.
    table = Table("name", *(Column(column, overflow="fold") for column in columns))
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def plot_schedules(names: Sequence[str], path: Path) -> None:
    """Draw schedules with their default options over a run of 1000 steps, one panel each.

    Args:
        names: Names of registered schedules, at least one.
        path: File to write; its suffix says the format.

    Raises:
        ValueError: if the suffix is neither .png nor .svg, or a schedule is not a function of the step alone.
        FileNotFoundError: if there is no such folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--plot: {path} must end in one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--plot: there is no folder {path.parent}")
    schedules_figure(names).savefig(path, dpi=DOTS_PER_INCH)


def schedules_figure(names: Sequence[str]) -> Figure:
    """Small multiples of schedules on common axes: the factor of the learning rate by the share of the run."""
    columns = min(len(names), COLUMNS)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2.6 * columns + 0.6, 2.0 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    progress = [step / (STEPS - 1) for step in range(STEPS)]
    for axes, name in zip(panels.flat, names, strict=False):
        factor = factor_function(SCHEDULES[name], STEPS)
        axes.plot(progress, [factor(step) for step in range(STEPS)], color=BLUE, linewidth=1.4)
        axes.set_title(name, fontsize=9, loc="left")
        axes.grid(color="0.88", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, labelbottom=True, labelleft=True)
        axes.set_ylim(-0.05, 1.1)
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel("share of the run", fontsize=9)
    figure.supylabel("learning rate / its peak", fontsize=9)
    return figure


def _rows(kind: str, pattern: str = "*") -> list[tuple[str, ...]]:
    """Name and summary of what fits a pattern, and its options if it has any."""
    if kind in ("optimizers", "schedules", "clippings"):
        return _registered(kind, pattern)
    return [row for row in _others(kind) if fnmatch(row[0].lower(), pattern.lower())]


def _registered(kind: str, pattern: str) -> list[tuple[str, ...]]:
    registry = next(registry for registry in REGISTRIES if kind == f"{registry.kind}s")
    rows: list[tuple[str, ...]] = []
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


def _others(kind: str) -> list[tuple[str, ...]]:
    if kind in SHIPPED:
        return [(name, first_line(path)) for name, path in shipped(kind).items()]
    if kind == "solvers":
        return [
            (name, solver.summary, "with tangency" if solver.supports_tangency else "without tangency")
            for name, solver in SOLVERS.items()
        ]
    if kind == "models":
        import steepest.lightning_modules as lightning_modules
        from steepest.lightning_modules import networks, objectives

        modules = [name for name in lightning_modules.__all__ if name != "BaseModule"]
        listed = ((lightning_modules, modules), (networks, networks.__all__), (objectives, objectives.__all__))
        return [row for package, names in listed for row in _classes(package, names)]
    if kind == "data":
        import steepest.datamodules as datamodules

        return _classes(datamodules, datamodules.__all__)
    import steepest.callbacks as callbacks

    return _classes(callbacks, callbacks.__all__)


def _classes(package: Any, names: Sequence[str]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
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
    from steepest.run.record import EXPLAINED, cells

    module = _network(network)
    built = OPTIMIZERS.create(optimizer, module)
    table = Table(*EXPLAINED, title=f"{optimizer} on {network}")
    for row in explain(module, built):
        table.add_row(*cells(row))
    Console().print(table)


def _network(name: str) -> Any:
    from steepest.lightning_modules import networks

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
        raise ValueError(f"{name} returns a {type(module).__name__}, not an nn.Module")
    return module
