"""The choice of the tuned options."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from steepest.study.definition import Study
from steepest.study.plan import Cell, Trial, cells, make_trial
from steepest.study.results import TrialResult
from steepest.study.spaces import beyond, edges, space_of


@dataclass(frozen=True)
class Choice:
    """The best point of a cell.

    Attributes:
        point: Its values; None if no trial of the cell finished.
        value: Mean of the metric over the tuning seeds.
        trials: Number of points tried.
        on_edge: Tuned options whose best value is the lowest or highest that was tried.
    """

    point: Mapping[str, Any] | None
    value: float
    trials: int
    on_edge: tuple[str, ...]


def choose(study: Study, results: Sequence[TrialResult]) -> dict[Cell, Choice]:
    """The best point of every tuned cell, by the mean over the tuning seeds; one that diverged or failed is the worst.

    Args:
        study: The study.
        results: Its results; those of other stages are passed over.
    """
    if study.tuning is None:
        return {}
    choices = {}
    for labels in cells(study):
        space = space_of(study.tuning, labels)
        tried = _tried(study, tuple(labels.values()), results)
        if not space:
            continue
        finite = {point: value for point, value in tried.items() if math.isfinite(value)}
        if not finite:
            choices[tuple(labels.values())] = Choice(None, math.nan, len(tried), ())
            continue
        best = (max if study.metric.mode == "max" else min)(finite, key=lambda point: finite[point])
        point = dict(best)
        on_edge = []
        for key, dimension in space.items():
            ends = edges(dimension, [dict(other)[key] for other in tried])
            if ends is not None and point[key] in ends and ends[0] != ends[1]:
                on_edge.append(key)
        choices[tuple(labels.values())] = Choice(point, finite[best], len(tried), tuple(on_edge))
    return choices


def chosen_points(study: Study, results: Sequence[TrialResult]) -> dict[Cell, Mapping[str, Any] | None]:
    """The points of `choose` alone, as `plan.final_trials` takes them."""
    return {cell: choice.point for cell, choice in choose(study, results).items()}


def extensions(study: Study, results: Sequence[TrialResult]) -> list[Trial]:
    """Trials past the edge for every cell whose best point lies there; none if the study does not ask for them."""
    if study.tuning is None or not study.tuning.extend:
        return []
    trials = []
    for cell, choice in choose(study, results).items():
        labels = dict(zip([axis.name for axis in study.axes], cell, strict=True))
        space = space_of(study.tuning, labels)
        tried = [dict(point) for point in _tried(study, cell, results)]
        for key in choice.on_edge:
            further = beyond(space[key], sorted({point[key] for point in tried}), (choice.point or {})[key])
            if further is not None:
                point = {**(choice.point or {}), key: further}
                trials += [make_trial(study, "tuning", labels, point, seed) for seed in study.tuning.seeds]
    return trials


def _tried(study: Study, cell: Cell, results: Sequence[TrialResult]) -> dict[tuple[tuple[str, Any], ...], float]:
    """Mean of the metric by point, NaN where a seed did not finish."""
    values: dict[tuple[tuple[str, Any], ...], list[float]] = {}
    for result in results:
        if result.stage == "tuning" and result.cell == cell:
            values.setdefault(tuple(result.point.items()), []).append(result.value(study.metric))
    return {point: float(numpy.mean(each)) for point, each in values.items()}
