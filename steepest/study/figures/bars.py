"""What each cell of a study came to."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes

from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import Cell, by_task, compared, grouped, of_stage, scalar
from steepest.study.analysis.statistics import Summary, summarize
from steepest.study.analysis.wording import aligned, axis_text, capital, scalar_label, set_unit, spoken, value_text
from steepest.study.figures.style import LETTER, WIDTH, few_decades, figure_kind, is_wide_range, lists, looks
from steepest.study.question.axes import axis_named, cell_name
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult

# With all values so near each other that bars from zero would look alike, points on a scale of their own tell more.
NEAR = 0.6
MOST_BELOW = 3  # panels; more stand two by two


@figure_kind
def bars(
    study: Study,
    results: Sequence[TrialResult],
    folder: Path,
    metric: str | None = None,
    by: str | None = None,
    mode: Literal["max", "min"] | None = None,
) -> list[Drawing]:
    """The final value of every cell, best first, with its interval and every seed; a panel for each workload.

    Args:
        study: What was asked.
        results: What came out.
        folder: Of the study.
        metric: The study's own by default, or any final scalar, or a difference "a - b" of two.
        by: Axis that colors stand for; by default the first that is not a workload.
        mode: Whether the largest ("max") or the smallest ("min") value is best; as the study's metric by default.
    """
    metric = metric or study.metric.name
    names = compared(study)
    by = by or names[0]
    panels = {
        task: grouped(study, members, names) for task, members in by_task(study, of_stage(results, "final")).items()
    }
    values = {
        task: {cell: [scalar(study, result, metric) for result in members] for cell, members in cells.items()}
        for task, cells in panels.items()
    }
    values = {task: own for task, own in values.items() if any(map(math.isfinite, itertools.chain(*own.values())))}
    if not values:
        raise NothingToDraw(f"No finished trial has logged {metric}.")
    sign = -1.0 if (mode or study.metric.mode) == "max" else 1.0
    own_looks = looks(axis_named(study, by))
    texts = {
        task: {cell: f"{cell_name(study, names, cell)}{_broken(panels[task][cell])}" for cell in own}
        for task, own in values.items()
    }
    longest = max(len(text) for own in texts.values() for text in own.values())
    # Half of the width is for the values, whatever the labels take.
    width = max(WIDTH + 0.4, 2.4 + LETTER * longest)
    beside = 2 if len(values) > MOST_BELOW else 1
    figure, grid = lists([len(own) for own in values.values()], width, beside=beside)
    said = []
    for (axes,), (task, own) in zip(grid, values.items(), strict=True):
        summaries = {cell: summarize(each, study.statistics.interval) for cell, each in own.items()}
        order = sorted(own, key=lambda cell, summaries=summaries: _rank(sign, summaries[cell]))
        colors = {cell: own_looks[panels[task][cell][0].labels[by]].color for cell in order}
        _draw(axes, metric, order, own, summaries, colors)
        axes.set_yticks(range(len(order)), [texts[task][cell] for cell in order])
        axes.set_title(task)
        set_unit(axes.xaxis, metric)
        told = [f"{texts[task][cell]} {value_text(metric, summaries[cell].mean)}" for cell in order]
        said.append(f"{task + ': ' if task else ''}{'; '.join(told)}.")
    for (axes,) in grid[-beside:]:
        axes.set_xlabel(axis_text(study, metric))
    name = scalar_label(study, metric)
    at = "best" if metric == study.metric.name and study.metric.at == "best" else "final"
    each = ", a panel for each workload" if study.workloads else ""
    nothing = spoken([task for task in panels if task not in values])
    return [
        Drawing(
            title=f"{capital(at)} {name}",
            caption=f"{capital(at)} {name} of each cell, best first{each}: the large mark is the mean over the "
            f"finished seeds (the number at the right), the line its 95 % interval ({study.statistics.interval}), "
            "small points are single seeds. Cells in which seeds diverged or failed come last, with their number."
            + (f" No run finished on {nothing}." if nothing else ""),
            alternative=f"{capital(at)} {name}, best first: {' '.join(said)}",
            figure=figure,
            wide=figure.get_figwidth() > 1.6 * WIDTH,
        )
    ]


def _draw(
    axes: Axes,
    metric: str,
    order: Sequence[Cell],
    values: Mapping[Cell, Sequence[float]],
    summaries: Mapping[Cell, Summary],
    colors: Mapping[Cell, str],
) -> None:
    finite = [value for own in values.values() for value in own if math.isfinite(value)]
    log = is_wide_range(finite)
    from_zero = not log and (min(finite) < NEAR * max(finite) or min(finite) <= 0)
    if log:
        axes.set_xscale("log")
        few_decades(axes.xaxis, finite)
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
        axes.plot(summary.mean, row, "D", color=color, markeredgecolor="white", markersize=6, zorder=4, clip_on=False)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.grid(visible=False, axis="y")


def _rank(sign: float, summary: Summary) -> tuple[bool, float]:
    # What diverges for some seeds does not rival what never does, however good the other seeds are.
    return summary.diverged > 0, sign * summary.mean if summary.count else math.inf


def _broken(members: Sequence[TrialResult]) -> str:
    counts = {status: sum(result.status == status for result in members) for status in ("diverged", "failed")}
    said = [f"{count} of {len(members)} {status}" for status, count in counts.items() if count]
    return f" ({', '.join(said)})" if said else ""
