"""The metric against a number that was varied."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import (
    FEWEST_FOR_A_BAND,
    Cell,
    colored_by,
    grouped,
    is_log_spaced,
    metric_named,
    others,
    points_of,
    split_into_panels,
    trials_over,
    varied_number,
)
from steepest.study.analysis.sensitivity import Sensitivity
from steepest.study.analysis.sensitivity import sensitivity as measure
from steepest.study.analysis.wording import axis_text, capital, number, scalar_label, set_unit, spoken, value_text
from steepest.study.figures.key import Key
from steepest.study.figures.style import Look, columns_of, figure_kind, is_wide_range, panels
from steepest.study.question.axes import axis_label, cell_name
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult

STAR = "The star is the best point, hollow where it is the first or last value, so that a better one may lie beyond. "


@figure_kind
def sensitivity(
    study: Study,
    results: Sequence[TrialResult],
    folder: Path,
    axis: str | None = None,
    metric: str | None = None,
    by: str | None = None,
    split: str | None = None,
    log: bool | None = None,
) -> list[Drawing]:
    """The metric against a learning rate, a budget, a width, a constant of the optimizer.

    Args:
        study: What was asked.
        results: What came out.
        folder: Of the study.
        axis: An axis of numbers, or a tuned option such as `optimizer.lr`, of which the tuning trials tell; by default
            the first tuned option, else the first axis of numbers.
        metric: The study's own by default, or any final scalar.
        by: Axis that colors stand for; by default the first that is not drawn from left to right.
        split: Axis that panels stand for; all others by default.
        log: Whether the metric has a logarithmic axis; by default if its values ask for it.
    """
    axis = varied_number(study, axis)
    judged = metric_named(study, metric)
    names = colored_by(study, axis, by)
    rows = [split] if split else others(study, axis, *names)
    names += others(study, axis, *names, *rows)
    parts = split_into_panels(study, trials_over(study, results, axis), rows)
    drawn: dict[Cell, dict[Cell, Sensitivity]] = {}
    for labels, members in parts.items():
        points = {cell: points_of(own, judged, axis) for cell, own in grouped(study, members, names).items()}
        drawn[labels] = {cell: measure(own, judged.mode) for cell, own in points.items() if own}
    every = [own for cells in drawn.values() for own in cells.values()]
    if not any(summary.count for own in every for summary in own.summaries):
        raise NothingToDraw(f"No finished trial has logged {judged.name}.")
    key = Key.of(study, names, *drawn.values())
    figure, grid = panels(len(drawn), legend=key.height(columns_of(len(drawn))), sharex=True, sharey=True)
    name = scalar_label(study, judged.name)
    starred = judged.name == study.metric.name  # of another scalar nobody said that more, or less, is better
    means = [summary.mean for own in every for summary in own.summaries]
    for axes, (labels, cells) in zip(grid, drawn.items(), strict=True):
        if is_log_spaced([value for own in every for value in own.values]):
            axes.set_xscale("log")
        if is_wide_range(means) if log is None else log:
            axes.set_yscale("log")
        for row, (cell, own) in enumerate(cells.items()):
            _draw(axes, own, key.looks[cell], row, starred)
        set_unit(axes.yaxis, judged.name)
        axes.set_title(cell_name(study, rows, labels))
    columns = grid[0].get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    for place, axes in enumerate(grid):
        if place + columns >= len(grid):
            axes.set_xlabel(axis_label(axis))
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel(axis_text(study, judged.name))
    key.add(figure)
    stage = "tuning" if axis not in study_axes(study) else "final"
    split_text = f", a panel for each {spoken([axis_label(row) for row in rows])}" if len(drawn) > 1 else ""
    return [
        Drawing(
            title=f"{capital(name)} against {axis_label(axis)}",
            caption=f"{capital(name)} of the {stage} trials against {axis_label(axis)}{split_text}. Bands are 95 % "
            f"intervals (t) of the mean over seeds where at least {FEWEST_FOR_A_BAND} finished. "
            f"{STAR if starred else ''}Crosses at the bottom: seeds diverged there, the larger the cross, the more.",
            alternative=f"Line chart of {name} against {axis_label(axis)}."
            + (f" {in_words(drawn, judged.name)}" if starred else ""),
            figure=figure,
            wide=len(drawn) > 1,
        )
    ]


def study_axes(study: Study) -> list[str]:
    """Names of all axes."""
    return [axis.name for axis in study.axes]


def in_words(drawn: Mapping[Cell, Mapping[Cell, Sensitivity]], metric: str) -> str:
    """Best value of each line, in words."""
    parts = []
    for labels, cells in drawn.items():
        for cell, own in cells.items():
            title = ", ".join((*cell, *labels))
            best = "no value without divergence" if own.best is None else f"best at {number(own.best_value)}"
            edge = " (at the edge)" if own.at_edge else ""
            mean = "" if own.best is None else f", {value_text(metric, own.summaries[own.best].mean)}"
            parts.append(f"{title + ': ' if title else ''}{best}{edge}{mean}")
    return "; ".join(parts) + "."


def _draw(axes: Axes, own: Sensitivity, look: Look, row: int, starred: bool) -> None:
    means = [summary.mean for summary in own.summaries]
    banded = [summary.count >= FEWEST_FOR_A_BAND for summary in own.summaries]
    low = [summary.low if wide else math.nan for summary, wide in zip(own.summaries, banded, strict=True)]
    high = [summary.high if wide else math.nan for summary, wide in zip(own.summaries, banded, strict=True)]
    axes.fill_between(own.values, low, high, color=look.color, alpha=0.18, linewidth=0)
    axes.plot(own.values, means, **look.points())
    if starred and own.best is not None:
        face = "white" if own.at_edge else look.color
        axes.plot(own.best_value, means[own.best], "*", ms=11, mfc=face, mec=look.color, mew=1.1, zorder=4)
    place = axes.get_xaxis_transform()
    for value, share in zip(own.values, own.diverged_shares, strict=True):
        if share:
            size = 3.0 + 3.5 * share
            axes.plot(value, 0.03 + 0.05 * row, "x", color=look.color, ms=size, mew=1.4, transform=place, clip_on=False)
