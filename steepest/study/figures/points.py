"""The metric by the value of a number that was varied, for the figures that draw it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy

from steepest.study.definition import Metric, Study
from steepest.study.figures.drawing import NothingToDraw
from steepest.study.figures.selection import Cell, grouped, of_stage
from steepest.study.names import axis_named, numbers_of
from steepest.study.results import TrialResult
from steepest.study.sensitivity import curves

Points = dict[float, list[float]]

# Scalars of which less is better, by the last part of their name.
_COSTS = ("loss", "gap", "distance", "perplexity")


def metric_named(study: Study, name: str | None) -> Metric:
    """The study's metric, or another scalar at its end."""
    if name is None or name == study.metric.name:
        return study.metric
    mode = "min" if name.rsplit("/", 1)[-1].endswith(_COSTS) else "max"
    return replace(study.metric, name=name, mode=mode, at="final", target=None, label=name)


def tuned_options(study: Study) -> list[str]:
    """Names of the tuned options that have numbers for values."""
    if study.tuning is None:
        return []
    spaces = [study.tuning.space, *study.tuning.spaces.values()]
    return list(
        dict.fromkeys(
            key
            for space in spaces
            for key, dimension in space.items()
            if dimension.scale != "values" or all(isinstance(value, (int, float)) for value in dimension.values)
        )
    )


def numeric_axes(study: Study) -> list[str]:
    """Names of the axes of two numbers or more."""
    return [axis.name for axis in study.axes if numbers_of(axis) is not None]


def varied_number(study: Study, axis: str | None) -> str:
    """The axis or tuned option asked for; by default the first tuned option, else the first axis of numbers.

    Raises:
        ValueError: if there is none of that name that has numbers.
        NothingToDraw: if nothing in the study has numbers.
    """
    known = [*tuned_options(study), *numeric_axes(study)]
    if axis is None:
        if not known:
            raise NothingToDraw("Neither an axis nor a tuned option of this study has numbers for values.")
        return known[0]
    if axis not in known:
        there = ", ".join(known) or "none"
        raise ValueError(f"{study.path}: there is no axis or tuned option {axis!r} with numbers; there are: {there}")
    return axis


def trials_over(study: Study, results: Iterable[TrialResult], axis: str) -> list[TrialResult]:
    """The trials that show the metric over a number: the tuning ones of a tuned option, else the final ones.

    Raises:
        NothingToDraw: if there are none.
    """
    if axis in numeric_axes(study):
        return of_stage(results, "final")
    return [result for result in of_stage(results, "tuning") if axis in result.point]


def points_of(members: Sequence[TrialResult], metric: Metric, axis: str) -> Points:
    """The metric of the runs at each value, NaN where one diverged.

    Where further options were tuned, those of the best mean at that value: what tuning would have found there.
    """
    whole = [result for result in members if result.status != "failed"]
    choices: dict[tuple[tuple[str, str], ...], list[TrialResult]] = {}
    for result in whole:
        rest = tuple((key, str(value)) for key, value in result.point.items() if key != axis)
        choices.setdefault(rest, []).append(result)
    best: Points = {}
    for own in choices.values():
        for points in curves(own, metric, axis).values():
            for value, values in points.items():
                if value not in best or _is_better(values, best[value], metric):
                    best[value] = values
    return dict(sorted(best.items()))


def points_by_cell(
    study: Study, results: Iterable[TrialResult], metric: Metric, axis: str, names: Sequence[str]
) -> dict[Cell, Points]:
    """`points_of` for every combination of labels on some axes; those without any trial are left out."""
    cells = grouped(study, trials_over(study, results, axis), names)
    found = {cell: points_of(members, metric, axis) for cell, members in cells.items()}
    return {cell: points for cell, points in found.items() if points}


def colored_by(study: Study, axis: str, by: str | None) -> list[str]:
    """The axis that colors stand for, as a list; empty if the number drawn is the study's only axis."""
    if by is not None:
        return [axis_named(study, by).name]
    return [other.name for other in study.axes if other.name != axis][:1]


def _is_better(values: Sequence[float], other: Sequence[float], metric: Metric) -> bool:
    own, rival = float(numpy.mean(values)), float(numpy.mean(other))
    return bool(numpy.isfinite(own)) and (not numpy.isfinite(rival) or metric.is_better(own, rival))
