"""The numbers that figures draw: which trials, in which groups, and what of them."""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy
from numpy.typing import NDArray

from steepest.study.analysis.drawing import NothingToDraw
from steepest.study.analysis.sensitivity import curves
from steepest.study.analysis.statistics import Summary, summarize
from steepest.study.question.axes import axis_named, cell_name, numbers_of
from steepest.study.question.definition import Metric, Study
from steepest.study.trials.results import TrialResult

Cell = tuple[str, ...]
Points = dict[float, list[float]]  # values of the runs at each number

FEWEST_FOR_A_BAND = 3
MOST_PANELS = 12

# "train/accuracy - val/accuracy": names hold no blanks, so that a hyphen between blanks is a minus.
DIFFERENCE = re.compile(r"\s+-\s+")
# Scalars of which less is better, by the last part of their name.
_COSTS = ("loss", "gap", "distance", "perplexity")


def is_log_spaced(values: Iterable[float]) -> bool:
    """Whether numbers belong on a logarithmic axis: all positive, over a decade or in a geometric sequence."""
    ordered = sorted(set(values))
    if len(ordered) < 2 or ordered[0] <= 0:
        return False
    if ordered[-1] / ordered[0] >= 10:
        return True
    ratios = [after / before for before, after in itertools.pairwise(ordered)]
    return len(ordered) > 2 and max(ratios) / min(ratios) < 1.05


def of_stage(results: Iterable[TrialResult], stage: str) -> list[TrialResult]:
    """The trials of a stage.

    Raises:
        NothingToDraw: if none is there.
    """
    found = [result for result in results if result.stage == stage]
    if not found:
        raise NothingToDraw(f"There are no {stage} trials yet.")
    return found


def grouped(study: Study, results: Iterable[TrialResult], names: Sequence[str]) -> dict[Cell, list[TrialResult]]:
    """Trials by their labels on some axes, in the order of the study file; groups without trials are left out."""
    axes = [axis_named(study, name) for name in names]
    groups = {labels: [] for labels in itertools.product(*(axis.alternatives for axis in axes))}
    for result in results:
        own = tuple(result.labels[name] for name in names)
        if own in groups:  # not so for what a changed study file no longer asks for
            groups[own].append(result)
    return {labels: members for labels, members in groups.items() if members}


def split_into_panels(
    study: Study,
    results: Iterable[TrialResult],
    names: Sequence[str],
    advice: str = "; choose trials by `only`, or an axis by `split`",
) -> dict[Cell, list[TrialResult]]:
    """`grouped`, for a panel each.

    Raises:
        NothingToDraw: if there would be more panels than a reader can take in, with the advice.
    """
    parts = grouped(study, results, names)
    if len(parts) > MOST_PANELS:
        raise NothingToDraw(f"It would have {len(parts)} panels{advice}.")
    return parts


def by_task(study: Study, results: Iterable[TrialResult]) -> dict[str, list[TrialResult]]:
    """Trials that are compared with each other, by the name of their workload; "" if the study names no workloads.

    Raises:
        NothingToDraw: if there are more workloads than a reader can take in.
    """
    parts = split_into_panels(study, results, study.workloads, ", one for each workload; choose some by `only`")
    return {cell_name(study, study.workloads, labels): members for labels, members in parts.items()}


def compared(study: Study) -> list[str]:
    """Names of the axes that are not workloads."""
    return others(study, *study.workloads)


def others(study: Study, *names: str) -> list[str]:
    """Names of all axes but these."""
    return [axis.name for axis in study.axes if axis.name not in names]


def scalar(study: Study, result: TrialResult, name: str) -> float:
    """A trial's number: the metric as the study defines it, another final scalar, or a difference "a - b".

    NaN if the trial has none, or did not finish.
    """
    if name == study.metric.name:
        return result.value(study.metric)
    if result.status != "finished":
        return math.nan
    parts = DIFFERENCE.split(name)
    if len(parts) == 2:
        return scalar(study, result, parts[0]) - scalar(study, result, parts[1])
    value = result.final.get(name)
    return math.nan if value is None else value


@dataclass(frozen=True)
class Line:
    """A scalar over the run, one line of a figure.

    Attributes:
        x: Steps or seconds.
        mean: Over the finished seeds.
        low: Lower end of the 95 % interval; NaN where there is none.
        high: Upper end.
        singles: x and values of single seeds, drawn thin: all with fewer than three finished, else the unfinished.
        crosses: Where seeds diverged.
        count: Finished seeds.
    """

    x: NDArray[numpy.float64]
    mean: NDArray[numpy.float64]
    low: NDArray[numpy.float64]
    high: NDArray[numpy.float64]
    singles: list[tuple[NDArray[numpy.float64], NDArray[numpy.float64]]]
    crosses: list[tuple[float, float]]
    count: int


def line(results: Sequence[TrialResult], name: str, clock: str, log: bool = False) -> Line | None:
    """Mean and interval of a scalar over the seeds of one cell; None if no run has logged it.

    Seeds are averaged where all finished ones have a value, which is everywhere on the evaluation grid; a mean over
    those that happen to be left would drift as seeds drop out.

    Args:
        results: The seeds.
        name: Of the scalar.
        clock: "step" or "time".
        log: Take mean and interval of the logarithms, if all values have one: an interval that reaches below 0 has no
            place on a logarithmic axis.
    """
    column = 0 if clock == "step" else 1
    paths = {}
    for result in results:
        rows = [row for row in result.history.get(name, []) if all(map(_is_number, (row[column], row[2])))]
        if rows:
            paths[result.key] = numpy.array([[math.nan if each is None else each for each in row] for row in rows])
    if not paths:
        return None
    finished = [paths[result.key] for result in results if result.status == "finished" and result.key in paths]
    broken = [result for result in results if result.status == "diverged" and result.key in paths]
    thin = [paths[result.key] for result in broken]
    if len(finished) < FEWEST_FOR_A_BAND:
        thin += finished
    crosses = [(float(paths[result.key][-1, column]), float(paths[result.key][-1, 2])) for result in broken]
    common = set.intersection(*(set(path[:, 0]) for path in finished)) if finished else set()
    rows = [path[numpy.isin(path[:, 0], list(common))] for path in finished] if common else []
    empty = numpy.array([])
    if not rows:
        return Line(empty, empty, empty, empty, [(path[:, column], path[:, 2]) for path in thin], crosses, 0)
    table = numpy.stack([path[:, 2] for path in rows])
    log = log and bool((table > 0).all())
    summaries = [summarize(values) for values in (numpy.log(table) if log else table).T.tolist()]
    low, high = _interval(summaries, len(rows))
    mean = numpy.array([summary.mean for summary in summaries])
    if log:
        mean, low, high = numpy.exp(mean), numpy.exp(low), numpy.exp(high)
    return Line(
        numpy.stack([path[:, column] for path in rows]).mean(0),
        mean,
        low,
        high,
        [(path[:, column], path[:, 2]) for path in thin],
        crosses,
        len(rows),
    )


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


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _interval(summaries: Sequence[Summary], count: int) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
    if count < FEWEST_FOR_A_BAND:
        nothing = numpy.full(len(summaries), math.nan)
        return nothing, nothing
    return numpy.array([summary.low for summary in summaries]), numpy.array([summary.high for summary in summaries])


def _is_better(values: Sequence[float], other: Sequence[float], metric: Metric) -> bool:
    own, rival = float(numpy.mean(values)), float(numpy.mean(other))
    return bool(numpy.isfinite(own)) and (not numpy.isfinite(rival) or metric.is_better(own, rival))
