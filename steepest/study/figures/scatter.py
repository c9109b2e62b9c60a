"""Two numbers of every trial against each other."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import spearmanr

from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import of_stage, others, scalar
from steepest.study.analysis.wording import axis_text, capital, number, scalar_label, set_unit
from steepest.study.figures.curves import cells_of
from steepest.study.figures.key import Key
from steepest.study.figures.style import HEIGHT, WIDTH, few_decades, figure_kind, is_wide_range
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult

FEWEST_FOR_A_RANK = 4


@figure_kind
def scatter(
    study: Study,
    results: Sequence[TrialResult],
    folder: Path,
    x: str = "sharpness/batch",
    y: str = "train/accuracy - val/accuracy",
    by: str | None = None,
) -> list[Drawing]:
    """A point for every finished trial.

    Args:
        study: What was asked.
        results: What came out.
        folder: Of the study.
        x: Final scalar of the horizontal axis, or a difference "a - b" of two.
        y: Of the vertical axis.
        by: Axis that colors stand for; the first by default.
    """
    by = by or study.axes[0].name
    cells = cells_of(study, of_stage(results, "final"), by, [])
    points = {}
    for cell, members in cells.items():
        pairs = [(scalar(study, result, x), scalar(study, result, y)) for result in members]
        points[cell] = [pair for pair in pairs if all(map(math.isfinite, pair))]
    points = {cell: own for cell, own in points.items() if own}
    every = [pair for own in points.values() for pair in own]
    if not every:
        raise NothingToDraw(f"No finished trial has both {x} and {y}.")
    key = Key.of(study, [by, *others(study, by)], points)
    figure = Figure(figsize=(WIDTH, HEIGHT + 0.2 + key.height()), layout="constrained")
    axes = figure.subplots()
    for cell, own in points.items():
        look = key.looks[cell]
        axes.plot(*zip(*own, strict=True), **look.points(linestyle="", markersize=5.5, alpha=0.9))
    if is_wide_range([pair[0] for pair in every]):
        axes.set_xscale("log")
        few_decades(axes.xaxis, [pair[0] for pair in every])
    if is_wide_range([pair[1] for pair in every]):
        axes.set_yscale("log")
        few_decades(axes.yaxis, [pair[1] for pair in every])
    names = scalar_label(study, x), scalar_label(study, y)
    axes.set_xlabel(axis_text(study, x))
    axes.set_ylabel(axis_text(study, y))
    set_unit(axes.xaxis, x)
    set_unit(axes.yaxis, y)
    key.add(figure)
    rank = _rank_correlation(every)
    return [
        Drawing(
            title=f"{capital(names[1])} against {names[0]}",
            caption=f"Final values, a point for each of {len(every)} finished trials.{rank}",
            alternative=f"Scatter plot of {names[1]} against {names[0]}, {len(every)} points.{rank}",
            figure=figure,
        )
    ]


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> str:
    first, second = zip(*pairs, strict=True)
    if len(pairs) < FEWEST_FOR_A_RANK or len(set(first)) == 1 or len(set(second)) == 1:
        return ""
    found: Any = spearmanr(first, second)
    return f" Spearman's rank correlation is {found.statistic:.2f} (p = {number(float(found.pvalue))})."
