"""A scalar over the run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import (
    FEWEST_FOR_A_BAND,
    Cell,
    Line,
    grouped,
    line,
    of_stage,
    others,
    split_into_panels,
)
from steepest.study.analysis.wording import axis_text, capital, scalar_label, set_unit, spoken, value_text
from steepest.study.figures.key import Key
from steepest.study.figures.style import Look, columns_of, figure_kind, is_wide_range, panels
from steepest.study.question.axes import axis_label, cell_name
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult

MARKS = 6  # on a line: more would hide it
CLOCKS = {"step": "optimizer step", "time": "training time (s)"}
BAND = (
    f"Lines are means over the finished seeds, bands their 95 % intervals (t); thin lines are single seeds where fewer "
    f"than {FEWEST_FOR_A_BAND} finished, and those that diverged, which end in a cross."
)

LOGARITHMS = " Means and intervals are of the logarithms."

# What is compared by factors.
_BY_FACTORS = ("noise/", "grad/")

Lines = Mapping[Cell, Line]


@figure_kind
def curves(
    study: Study,
    results: Sequence[TrialResult],
    folder: Path,
    metric: str | None = None,
    x: Literal["step", "time"] = "step",
    by: str | None = None,
    split: str | None = None,
    log: bool | None = None,
) -> list[Drawing]:
    """A scalar over steps or seconds, one line for each cell of the study.

    Args:
        study: What was asked.
        results: What came out.
        folder: Of the study.
        metric: Name of a logged scalar; the study's own by default.
        x: "step" or "time", seconds inside training steps.
        by: Axis that colors stand for; the first by default.
        split: Axis that panels stand for; all but `by` by default.
        log: Whether the scalar has a logarithmic axis; by default if its values ask for it.
    """
    metric = metric or study.metric.name
    by = by or study.axes[0].name
    rows = [split] if split else others(study, by)
    parts = split_into_panels(study, of_stage(results, "final"), rows)
    cells = {labels: cells_of(study, members, by, rows) for labels, members in parts.items()}
    lines, log = on_one_scale(cells, metric, x, log)
    if not any(lines.values()):
        raise NothingToDraw(f"No trial has logged {metric}.")
    key = Key.of(study, [by, *others(study, by, *rows)], *lines.values())
    figure, grid = panels(len(lines), legend=key.height(columns_of(len(lines))), sharex=True, sharey=True)
    name = scalar_label(study, metric)
    draw_panels(grid, lines, key, metric, log)
    for axes, labels in zip(grid, lines, strict=True):
        axes.set_title(cell_name(study, rows, labels))
        frame(axes, grid, x, axis_text(study, metric))
    key.add(figure)
    clock = "optimizer steps" if x == "step" else "seconds inside training steps"
    each = f", a panel for each {spoken([axis_label(row) for row in rows])}" if len(lines) > 1 else ""
    return [
        Drawing(
            title=f"{capital(name)} over {'the steps' if x == 'step' else 'training time'}",
            caption=f"{capital(name)} against {clock}{each}. {BAND}{LOGARITHMS if log else ''}",
            alternative=f"Line chart of {name} against {clock}. At the end: {ends(lines, metric)}.",
            figure=figure,
            wide=len(lines) > 1,
        )
    ]


def wants_log(metric: str, lines: Iterable[Lines]) -> bool:
    """Whether a scalar belongs on a logarithmic axis."""
    values = [float(value) for cells in lines for own in cells.values() for value in own.mean]
    return is_wide_range(values, 3.0 if metric.startswith(_BY_FACTORS) else 30.0)


def cells_of(
    study: Study, results: Sequence[TrialResult], by: str, rows: Sequence[str]
) -> dict[Cell, list[TrialResult]]:
    """Seeds by the axis of colors first, then by all axes that no panel stands for."""
    return grouped(study, results, [by, *others(study, by, *rows)])


def on_one_scale(
    panels_of_cells: Mapping[Cell, Mapping[Cell, Sequence[TrialResult]]], metric: str, clock: str, log: bool | None
) -> tuple[dict[Cell, dict[Cell, Line]], bool]:
    """The lines of those cells that have logged the scalar, panel by panel.

    Args:
        panels_of_cells: Seeds of every cell of every panel.
        metric: The scalar.
        clock: "step" or "time".
        log: Whether the axis is logarithmic; None leaves it to the values.

    Returns:
        The lines, and whether the axis is logarithmic; then means and intervals are of the logarithms.
    """

    def measured(on_log: bool) -> dict[Cell, dict[Cell, Line]]:
        return {
            labels: {cell: own for cell, members in cells.items() if (own := line(members, metric, clock, on_log))}
            for labels, cells in panels_of_cells.items()
        }

    lines = measured(False)
    log = wants_log(metric, lines.values()) if log is None else log
    return (measured(True) if log else lines), log


def draw_panels(grid: Sequence[Axes], lines: Mapping[Cell, Lines], key: Key, metric: str, log: bool) -> None:
    """Lines of panels on one scale."""
    every = [own for cells in lines.values() for own in cells.values()]
    limits = _limits(every, log)
    for axes, cells in zip(grid, lines.values(), strict=True):
        for place, (cell, look) in enumerate(key.looks.items()):
            if cell in cells:
                _draw(axes, cells[cell], look, limits, place)
        if log:
            axes.set_yscale("log")
            if limits is not None and limits[1] > 9 * limits[0]:  # powers of ten are enough
                axes.yaxis.set_minor_formatter(NullFormatter())
        set_unit(axes.yaxis, metric)
        if limits is not None:
            axes.set_ylim(*limits)
        axes.set_xlim(left=0)


def _draw(axes: Axes, own: Line, look: Look, limits: tuple[float, float] | None, place: int) -> None:
    for x, values in own.singles:
        axes.plot(x, values, **look.line(linewidth=0.7, alpha=0.7))
    if own.count:
        axes.fill_between(own.x, own.low, own.high, color=look.color, alpha=0.18, linewidth=0)
        # Marks at other places for each line, so that lines upon each other are all seen.
        every = max(1, len(own.x) // MARKS)
        axes.plot(own.x, own.mean, **look.points(markevery=(place % every, every)))
    low, high = limits or (-math.inf, math.inf)
    for x, value in own.crosses:
        axes.plot(x, min(max(value, low), high), "X", color=look.color, ms=7, mec="white", zorder=4, clip_on=False)


def _limits(lines: Iterable[Line], log: bool) -> tuple[float, float] | None:
    # What diverges would press the rest flat: it is followed for as much again as the finished runs span.
    inner = [value for own in lines if own.count for row in (own.mean, own.low, own.high) for value in row.tolist()]
    inner = [value for value in inner if math.isfinite(value) and (value > 0 or not log)]
    if not inner:
        return None
    low, high = min(inner), max(inner)
    outer = [value for own in lines for _, row in own.singles for value in row.tolist() if value > 0 or not log]
    if log:
        reach = math.log(high / low) or 0.1
        top = min(max([high, *outer]), high * math.exp(reach))
        bottom = max(min([low, *outer]), low / math.exp(reach))
        return bottom / math.exp(0.04 * reach), top * math.exp(0.04 * reach)
    reach = high - low or abs(high) / 10 or 1.0
    top, bottom = min(max([high, *outer]), high + reach), max(min([low, *outer]), low - reach)
    return bottom - 0.04 * reach, top + 0.04 * reach


def frame(axes: Axes, grid: Sequence[Axes], clock: str, label: str) -> None:
    """Names of the axes, at the outer panels only."""
    place = axes.get_subplotspec()
    assert place is not None
    if list(grid).index(axes) + place.get_gridspec().ncols >= len(grid):
        axes.set_xlabel(CLOCKS[clock])
        axes.tick_params(labelbottom=True)
    if place.is_first_col():
        axes.set_ylabel(label)


def ends(lines: Mapping[Cell, Lines], metric: str) -> str:
    """Last means of the lines, in words."""
    parts = []
    for panel, cells in lines.items():
        for cell, own in cells.items():
            last = value_text(metric, float(own.mean[-1])) if own.count else "no finished seed"
            parts.append(f"{', '.join((*cell, *panel))} {last}")
    return "; ".join(parts)
