"""How soon each cell reached the target."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import Cell, by_task, compared, grouped, of_stage
from steepest.study.analysis.speed import TimeToTarget, crossing, time_to_target
from steepest.study.analysis.wording import number, scalar_label, target_text
from steepest.study.figures.style import LETTER, few_decades, figure_kind, is_wide_range, lists, looks
from steepest.study.question.axes import axis_named, cell_name
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult


@figure_kind
def targets(study: Study, results: Sequence[TrialResult], folder: Path, by: str | None = None) -> list[Drawing]:
    """Steps and training seconds to the target, fastest first; a row of panels for each workload.

    Args:
        study: What was asked; its metric needs a target.
        results: What came out.
        folder: Of the study.
        by: Axis that colors stand for; by default the first that is not a workload.
    """
    metric = study.metric
    if metric.target is None:
        raise NothingToDraw("The study's metric has no target.")
    names = compared(study)
    by = by or names[0]
    panels = {
        task: grouped(study, members, names) for task, members in by_task(study, of_stage(results, "final")).items()
    }
    times = {
        task: {cell: own for cell, members in cells.items() if (own := time_to_target(members, metric)).count}
        for task, cells in panels.items()
    }
    times = {task: own for task, own in times.items() if own}
    if not times:
        raise NothingToDraw("No trial has come to an end.")
    own_looks = looks(axis_named(study, by))
    texts = {
        task: {cell: f"{cell_name(study, names, cell)}{_missed(each)}" for cell, each in own.items()}
        for task, own in times.items()
    }
    longest = max(len(text) for own in texts.values() for text in own.values())
    figure, grid = lists([len(own) for own in times.values()], 4.8 + LETTER * longest, panels=2, sharey="row")
    said = []
    for row, (task, own) in zip(grid, times.items(), strict=True):
        cells = panels[task]
        order = sorted(own, key=lambda cell, own=own: _rank(own[cell]))
        colors = {cell: own_looks[cells[cell][0].labels[by]].color for cell in order}
        for axes, clock, name in zip(row, ("step", "seconds"), ("steps", "seconds"), strict=True):
            found = {
                cell: [getattr(crossing(result, metric), clock) for result in cells[cell] if result.status != "failed"]
                for cell in order
            }
            _draw(axes, order, found, {cell: getattr(own[cell], f"median_{name}") for cell in order}, colors)
        row[0].set_yticks(range(len(order)), [texts[task][cell] for cell in order])
        row[0].set_ylim(len(order) - 0.5, -0.5)
        row[0].set_title(task)
        told = [f"{texts[task][cell]} {number(own[cell].median_steps)}" for cell in order]
        said.append(f"{task + ': ' if task else ''}{'; '.join(told)}.")
    grid[-1][0].set_xlabel("optimizer steps to target")
    grid[-1][1].set_xlabel("training seconds to target")
    label = scalar_label(study, metric.name)
    target = f"{label} {'≥' if metric.mode == 'max' else '≤'} {target_text(metric.name, metric.target)}"
    each = ", a row of panels for each workload" if study.workloads else ""
    return [
        Drawing(
            title=f"Time to {target}",
            caption=f"The first evaluation with {target}, in optimizer steps and in seconds inside training "
            f"steps{each}: the large mark is the median over seeds, small points are single seeds. A seed that missed "
            "the target counts as infinitely slow; with half of them or more there is no median.",
            alternative=f"Median steps to {target}: {' '.join(said)}",
            figure=figure,
            wide=True,
        )
    ]


def _draw(axes: Axes, order: Sequence[Cell], found: dict, middles: dict, colors: dict) -> None:
    finite = [value for own in found.values() for value in own if math.isfinite(value)]
    for row, cell in enumerate(order):
        reached = [value for value in found[cell] if math.isfinite(value)]
        axes.plot(reached, [row] * len(reached), ".", color="0.25", ms=4, alpha=0.7)
        if math.isfinite(middles[cell]):
            axes.plot(middles[cell], row, "D", color=colors[cell], mec="white", ms=7, zorder=4)
    if is_wide_range(finite):
        axes.set_xscale("log")
        few_decades(axes.xaxis, finite)
    elif finite:
        axes.set_xlim(0, 1.06 * max(finite))
    axes.tick_params(axis="y", length=0)


def _rank(times: TimeToTarget) -> tuple[float, float]:
    return (-times.reached / max(times.count, 1), times.median_steps) if times.reached else (1.0, math.inf)


def _missed(times: TimeToTarget) -> str:
    missed = times.count - times.reached
    return f" ({missed} of {times.count} missed)" if missed else ""
