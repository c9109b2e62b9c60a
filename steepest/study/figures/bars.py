"""What each cell of a study came to."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from steepest.study.definition import Study
from steepest.study.figures.drawing import Drawing, NothingToDraw
from steepest.study.figures.selection import Cell, grouped, of_stage, scalar
from steepest.study.figures.style import WIDTH, is_wide_range, looks, styled
from steepest.study.figures.words import aligned, axis_text, capital, scalar_label, set_unit, value_text
from steepest.study.names import axis_named, cell_name
from steepest.study.results import TrialResult
from steepest.study.statistics import Summary, summarize

ROW = 0.24  # inches
LETTER = 0.065
# With all values so near each other that bars from zero would look alike, points on a scale of their own tell more.
NEAR = 0.6


@styled
def bars(
    study: Study,
    results: Sequence[TrialResult],
    folder: Path,
    metric: str | None = None,
    by: str | None = None,
    mode: Literal["max", "min"] | None = None,
) -> list[Drawing]:
    """The final value of every cell, best first, with its interval and every seed.

    Args:
        study: What was asked.
        results: What came out.
        folder: Of the study.
        metric: The study's own by default, or any final scalar, or a difference "a - b" of two.
        by: Axis that colors stand for; the first by default.
        mode: Whether the largest ("max") or the smallest ("min") value is best; as the study's metric by default.
    """
    metric = metric or study.metric.name
    by = by or study.axes[0].name
    names = [axis.name for axis in study.axes]
    cells = grouped(study, of_stage(results, "final"), names)
    values = {cell: [scalar(study, result, metric) for result in members] for cell, members in cells.items()}
    summaries = {cell: summarize(own) for cell, own in values.items()}
    if not any(summary.count for summary in summaries.values()):
        raise NothingToDraw(f"No finished trial has logged {metric}.")
    sign = -1.0 if (mode or study.metric.mode) == "max" else 1.0
    order = sorted(cells, key=lambda cell: _rank(sign, summaries[cell]))
    own_looks, place = looks(axis_named(study, by)), names.index(by)
    colors = {cell: own_looks[cell[place]].color for cell in cells}
    shown = {cell: cell_name(study, names, cell) for cell in cells}
    broken = {cell: _broken(members) for cell, members in cells.items()}
    figure = _draw(metric, order, values, summaries, colors, shown, broken)
    name = scalar_label(study, metric)
    figure.axes[0].set_xlabel(axis_text(study, metric))
    set_unit(figure.axes[0].xaxis, metric)
    at = "best" if metric == study.metric.name and study.metric.at == "best" else "final"
    return [
        Drawing(
            title=f"{capital(at)} {name}",
            caption=f"{capital(at)} {name} of each cell, best first: the large mark is the mean over the finished "
            "seeds (the number at the right), the line its 95 % interval (t), small points are single seeds. Cells in "
            "which seeds diverged or failed come last, with their number.",
            alternative=f"{capital(at)} {name}, best first: "
            + "; ".join(f"{shown[cell]} {value_text(metric, summaries[cell].mean)}{broken[cell]}" for cell in order)
            + ".",
            figure=figure,
            wide=figure.get_figwidth() > 1.6 * WIDTH,
        )
    ]


def _draw(
    metric: str,
    order: Sequence[Cell],
    values: dict[Cell, list[float]],
    summaries: dict[Cell, Summary],
    colors: dict[Cell, str],
    names: dict[Cell, str],
    broken: dict[Cell, str],
) -> Figure:
    finite = [value for own in values.values() for value in own if math.isfinite(value)]
    log = is_wide_range(finite)
    from_zero = not log and (min(finite) < NEAR * max(finite) or min(finite) <= 0)
    labels = [f"{names[cell]}{broken[cell]}" for cell in order]
    # Half of the width is for the values, whatever the labels take.
    width = max(WIDTH + 0.4, 2.4 + LETTER * max(map(len, labels)))
    figure = Figure(figsize=(width, min(14.0, 0.75 + ROW * len(order))), layout="constrained")
    axes = figure.subplots()
    if log:
        axes.set_xscale("log")
    texts = aligned(metric, [summaries[cell].mean for cell in order])
    for row, cell in enumerate(order):
        own, summary, color = [v for v in values[cell] if math.isfinite(v)], summaries[cell], colors[cell]
        if not own:
            continue
        if from_zero:
            axes.barh(row, summary.mean, 0.7, color=color, alpha=0.3, linewidth=0)
        if summary.count > 1:
            axes.plot([summary.low, summary.high], [row, row], color=color, linewidth=2.2, solid_capstyle="butt")
        # Seeds of nearly equal values lie beside each other.
        offsets = [0.18 * (index - (len(own) - 1) / 2) / max(len(own) - 1, 1) * 2 for index in range(len(own))]
        axes.plot(own, [row + offset for offset in offsets], ".", color="0.25", ms=3.5, alpha=0.8)
        axes.text(1.02, row, texts[row], transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.plot(summary.mean, row, "D", color=color, markeredgecolor="white", markersize=6, zorder=4)
    axes.set_yticks(range(len(order)), labels)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    return figure


def _rank(sign: float, summary: Summary) -> tuple[bool, float]:
    # What diverges for some seeds is no rival of what never does, however good the other seeds are.
    return summary.diverged > 0, sign * summary.mean if summary.count else math.inf


def _broken(members: Sequence[TrialResult]) -> str:
    counts = {status: sum(result.status == status for result in members) for status in ("diverged", "failed")}
    said = [f"{count} of {len(members)} {status}" for status, count in counts.items() if count]
    return f" ({', '.join(said)})" if said else ""
