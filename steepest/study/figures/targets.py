"""How soon each cell reached the target."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steepest.study.definition import Study
from steepest.study.figures.bars import LETTER
from steepest.study.figures.drawing import Drawing, NothingToDraw
from steepest.study.figures.selection import Cell, grouped, of_stage
from steepest.study.figures.style import is_wide_range, looks, styled
from steepest.study.figures.words import number, scalar_label, target_text
from steepest.study.names import axis_named, cell_name
from steepest.study.results import TrialResult
from steepest.study.targets import TimeToTarget, crossing, time_to_target


@styled
def targets(study: Study, results: Sequence[TrialResult], folder: Path, by: str | None = None) -> list[Drawing]:
    """Steps and training seconds to the target, fastest first.

    Args:
        study: What was asked; its metric needs a target.
        results: What came out.
        folder: Of the study.
        by: Axis that colors stand for; the first by default.
    """
    metric = study.metric
    if metric.target is None:
        raise NothingToDraw("The study's metric has no target.")
    names = [axis.name for axis in study.axes]
    by = by or names[0]
    cells = grouped(study, of_stage(results, "final"), names)
    times = {cell: time_to_target(members, metric) for cell, members in cells.items()}
    times = {cell: own for cell, own in times.items() if own.count}
    if not times:
        raise NothingToDraw("No trial has come to an end.")
    order = sorted(times, key=lambda cell: _rank(times[cell]))
    own_looks, place = looks(axis_named(study, by)), names.index(by)
    label = scalar_label(study, metric.name)
    texts = [f"{cell_name(study, names, cell)}{_missed(times[cell])}" for cell in order]
    width = 4.8 + LETTER * max(map(len, texts))
    figure = Figure(figsize=(width, min(14.0, 0.9 + 0.24 * len(order))), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, clock, name in ((left, "step", "steps"), (right, "seconds", "seconds")):
        found = {
            cell: [getattr(crossing(result, metric), clock) for result in cells[cell] if result.status != "failed"]
            for cell in order
        }
        middles = {cell: getattr(times[cell], f"median_{name}") for cell in order}
        colors = {cell: own_looks[cell[place]].color for cell in order}
        _draw(axes, order, found, middles, colors)
        axes.set_xlabel("optimizer steps to target" if clock == "step" else "training seconds to target")
    left.set_yticks(range(len(order)), texts)
    left.set_ylim(len(order) - 0.5, -0.5)
    right.tick_params(axis="y", length=0)
    target = f"{label} {'≥' if metric.mode == 'max' else '≤'} {target_text(metric.name, metric.target)}"
    return [
        Drawing(
            title=f"Time to {target}",
            caption=f"The first evaluation with {target}, in optimizer steps and in seconds inside training steps: the "
            "large mark is the median over seeds, small points are single seeds. A seed that missed the target counts "
            "as infinitely slow; with half of them or more there is no median.",
            alternative=f"Median steps to {target}: "
            + "; ".join(f"{text} {number(times[cell].median_steps)}" for text, cell in zip(texts, order, strict=True))
            + ".",
            figure=figure,
            wide=True,
        )
    ]


def _draw(axes: Axes, order: Sequence[Cell], found: dict, middles: dict, colors: dict) -> None:
    finite = [value for own in found.values() for value in own if math.isfinite(value)]
    if is_wide_range(finite):
        axes.set_xscale("log")
    for row, cell in enumerate(order):
        reached = [value for value in found[cell] if math.isfinite(value)]
        axes.plot(reached, [row] * len(reached), ".", color="0.25", ms=4, alpha=0.7)
        if math.isfinite(middles[cell]):
            axes.plot(middles[cell], row, "D", color=colors[cell], mec="white", ms=7, zorder=4)
    if not axes.get_xscale() == "log":
        axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)


def _rank(times: TimeToTarget) -> tuple[float, float]:
    return (-times.reached / max(times.count, 1), times.median_steps) if times.reached else (1.0, math.inf)


def _missed(times: TimeToTarget) -> str:
    missed = times.count - times.reached
    return f" ({missed} of {times.count} missed)" if missed else ""
