"""Figures of what can be chosen, drawn without training."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from optim import SCHEDULES
from optim.schedules import factor_function

SUFFIXES = (".png", ".svg")
STEPS = 1000
COLUMNS = 4
COLOR = "#0072B2"


def plot_schedules(names: Sequence[str], path: Path) -> None:
    """Draw schedules with their default options over a run of 1000 steps, one panel each.

    Args:
        names: Names of registered schedules, at least one.
        path: File to write; its suffix says the format.

    Raises:
        ValueError: if the suffix is neither .png nor .svg, or a schedule is no function of the step alone.
        FileNotFoundError: if there is no such folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--plot: {path} must end in one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--plot: there is no folder {path.parent}")
    schedules_figure(names).savefig(path, dpi=150)


def schedules_figure(names: Sequence[str]) -> Figure:
    """Small multiples of schedules on common axes: the factor of the learning rate by the share of the run."""
    columns = min(len(names), COLUMNS)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2.6 * columns + 0.6, 2.0 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    progress = [step / (STEPS - 1) for step in range(STEPS)]
    for axes, name in zip(panels.flat, names, strict=False):
        factor = factor_function(SCHEDULES[name], STEPS)
        axes.plot(progress, [factor(step) for step in range(STEPS)], color=COLOR, linewidth=1.4)
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
