"""Figures of the update dynamics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from steepest.common.history import History
from steepest.common.plotting import (
    BLUE,
    GREEN,
    PURPLE,
    VERMILION,
    around,
    dots_with_range,
    heat_map,
    height_of_rows,
    label_rows,
    middle_limits,
    positive_log10,
)
from steepest.diagnostics.updates.dynamics import DynamicsSample

FEW_ROWS = 24  # up to which panels stand in two lines


@dataclass(frozen=True)
class Panel:
    """One field over layers and steps: `center` None for a logarithm, else colors that part there."""

    field: str
    title: str
    label: str
    colors: str = "viridis"
    logarithmic: bool = True
    center: float | None = None


@dataclass(frozen=True)
class Column:
    """Fields of one axis of the figure by layer, each with color and label: dots on a logarithmic axis, else bars."""

    label: str
    fields: tuple[tuple[str, str, str], ...]
    logarithmic: bool


PANELS = (
    Panel("effective_lr", "Effective learning rate", r"$\log_{10}$ of $-\langle\Delta w, g\rangle / \|g\|^2$"),
    Panel(
        "relative_size", "Relative size", r"$\log_{10}\,(\|\Delta w\| / \|w\|)$, often near $-3$", "PuOr_r", True, -3.0
    ),
    Panel(
        "cosine_to_gradient", "Cosine to the negative gradient", r"cosine of $\Delta w$ and $-g$", "RdBu", False, 0.0
    ),
    Panel(
        "cosine_to_previous", "Cosine with the previous update", r"cosine of $\Delta w_t$ and $\Delta w_{t-1}$", "RdBu",
        False, 0.0,
    ),
    Panel("drift", "Rotation of the leading subspaces", "degrees since the previous measurement", "magma", False),
    Panel("budget_used", "Budget used", r"$\log_{10}$ of $\|\Delta W\|_2$ / budget", "cividis"),
    Panel("frank_wolfe_residual", "Residual of Frank-Wolfe", "0 at the optimum, 1 at the origin", "cividis", False),
    Panel("alpha_mean", r"AutoSGM's learning rate $\alpha_t$", r"$\log_{10}$ of its mean", "cividis"),
    Panel("not_contracting", "Not contracting", r"share of coordinates with $|\beta r_t| \geq 1$", "magma", False),
)  # fmt: skip
COLUMNS = (
    Column("effective learning rate", (("effective_lr", BLUE, "last step"),), True),
    Column("relative size of the update", (("relative_size", BLUE, "last step"),), True),
    Column(
        "cosine of the update",
        (
            ("cosine_to_gradient", GREEN, "to the negative gradient"),
            ("cosine_to_previous", VERMILION, "with the previous update"),
        ),
        False,
    ),
    Column(
        "rotation of the leading subspaces, degrees",
        (
            ("drift", PURPLE, "since the previous measurement"),
            ("drift_from_start", "0.45", "since the first measurement"),
        ),
        False,
    ),
    Column("share of the budget used", (("budget_used", BLUE, "last step"),), False),
    Column("residual of Frank-Wolfe", (("frank_wolfe_residual", BLUE, "last step"),), False),
    Column(r"AutoSGM's learning rate $\alpha_t$", (("alpha_mean", BLUE, "last step"),), True),
)


def by_layer(sample: DynamicsSample, history: History) -> Figure:
    """The last numbers of every parameter, with their range over the run.

    Args:
        sample: The last sample, the newest of `history`.
        history: All samples, for the ranges.

    Returns:
        A figure with one axis for each kind of number; weights, scales and biases are apart, each with the first layer
        at the top. Where a field is not measured at every sample, its newest value is shown; on a logarithmic axis that
        is of the newest sample with something positive.
    """
    names, borders = _rows(sample)
    columns = [column for column in COLUMNS if any(_known(history, field) for field, _, _ in column.fields)]
    figure = Figure(figsize=(3.0 + 3.3 * len(columns), height_of_rows(len(names)) + 0.6), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        for place, (field, color, label) in enumerate(column.fields):
            table = history.of(field, names)
            if column.logarithmic:
                positive = torch.where(table > 0, table, torch.nan)  # a schedule may end in a step that moves nothing
                rows = dots_with_range(axes, _last_known(positive), positive, color, label)
                axes.set_xscale("log")
                if not rows:
                    axes.set_xlim(0.1, 1.0)  # a logarithmic axis needs something to show
            else:
                _bars(axes, _last_known(table), table, color, label, place, len(column.fields))
        for border in borders:
            axes.axhline(border - 0.5, color="0.6", linewidth=0.8)
        axes.set_xlabel(column.label)
        axes.grid(axis="x", color="0.88", linewidth=0.6)
        axes.set_axisbelow(True)
        if len(column.fields) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8, frameon=False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    label_rows(panels[0], names, offset=0.0)
    drawn = " (dots, bars) and range over the run (lines)" if len(history) > 1 else ""
    figure.suptitle(f"Update dynamics by layer at step {history.steps[-1]:,}{drawn}", fontsize=11)
    return figure


def heat_maps(sample: DynamicsSample, history: History) -> Figure:
    """Every kind of number of every parameter over the run, one heat map each.

    Args:
        sample: The last sample, the newest of `history`.
        history: All samples.

    Returns:
        A figure with steps from left to right; weights, scales and biases are apart, each with the first layer at the
        top. Gray means not measured, not finite or, with logarithmic colors, not positive.
    """
    names, borders = _rows(sample)
    panels = [panel for panel in PANELS if _known(history, panel.field)] or list(PANELS[:1])
    lines = 2 if len(names) <= FEW_ROWS and len(panels) > 3 else 1
    across = math.ceil(len(panels) / lines)
    height = max(3.8, height_of_rows(len(names)))
    figure = Figure(figsize=(2.4 + 3.7 * across, lines * height), layout="constrained")
    grid = figure.subplots(lines, across, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        table = history.of(panel.field, names)
        measured = [index for index, row in enumerate(table) if not bool(torch.isnan(row).all())]
        steps = [history.steps[index] for index in measured]
        if steps:
            _heat_map(figure, axes, steps, table[measured], panel, borders[0] if borders else len(names))
        for border in borders:
            axes.axhline(border, color="white", linewidth=3.0)
        axes.set_title(panel.title, loc="left", fontsize=11)
        axes.set_xlabel("optimizer step")
        if axes.get_subplotspec().is_first_col():
            label_rows(axes, names, offset=0.5)
        else:
            axes.tick_params(axis="y", length=0)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    grid[0, 0].set_ylim(len(names), 0)
    return figure


def _rows(sample: DynamicsSample) -> tuple[list[str], list[int]]:
    """Names with weights first, then scales, then biases, and where one kind ends."""
    kinds = [role for role in ("weight", "scale", "bias") if role in sample.roles]
    names = [name for kind in kinds for name, role in zip(sample.names, sample.roles, strict=True) if role == kind]
    counts = [sample.roles.count(kind) for kind in kinds]
    return names, [sum(counts[: place + 1]) for place in range(len(counts) - 1)]


def _known(history: History, field: str) -> bool:
    return not bool(torch.isnan(history[field]).all())


def _last_known(table: Tensor) -> list[float]:
    """The newest sample in which the field was measured at all."""
    measured = [row for row in table if not bool(torch.isnan(row).all())]
    return measured[-1].tolist() if measured else [math.nan] * table.shape[1]


def _bars(axes: Axes, last: Sequence[float], table: Tensor, color: str, label: str, place: int, count: int) -> None:
    height = 0.8 / count
    rows = [row for row, value in enumerate(last) if math.isfinite(value)]
    places = [row - 0.4 + height * (place + 0.5) for row in rows]
    axes.barh(places, [last[row] for row in rows], height * 0.9, color=color, label=label)
    known = torch.isfinite(table)
    low = torch.where(known, table, math.inf).amin(0).tolist()
    high = torch.where(known, table, -math.inf).amax(0).tolist()
    axes.hlines(places, [low[row] for row in rows], [high[row] for row in rows], colors="black", linewidth=0.8)
    axes.axvline(0.0, color="0.3", linewidth=0.8)


def _heat_map(figure: Figure, axes: Axes, steps: Sequence[int], table: Tensor, panel: Panel, leading: int) -> None:
    table = positive_log10(table) if panel.logarithmic else table
    reach = 1.0 if panel.logarithmic else 0.1
    # By the weights: a bias in front of a batch normalization has a gradient of rounding errors, and strange numbers.
    limits = middle_limits(table[:, :leading], margin=0.0)
    if panel.center is not None or limits is None:
        limits = around(panel.center or 0.0, limits, reach)
    else:
        limits = limits[0], max(limits[1], limits[0] + 1e-6)
    heat_map(figure, axes, steps, table, panel.colors, limits, panel.label, "both")
