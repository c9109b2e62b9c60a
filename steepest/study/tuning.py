"""The choice of the tuned options."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from steepest.study.definition import Metric, Study, Tuning
from steepest.study.plan import Cell, Trial, cells, make_trial, tuning_trials
from steepest.study.results import TrialResult, results_for
from steepest.study.spaces import beyond, edges, space_of


@dataclass(frozen=True)
class Choice:
    """The best point of a cell.

    Attributes:
        point: Its values; None if no trial of the cell finished.
        value: Mean of the metric over the tuning seeds.
        trials: Number of points tried with all seeds.
        on_edge: Tuned options whose best value is the lowest or highest that was tried.
    """

    point: Mapping[str, Any] | None
    value: float
    trials: int
    on_edge: tuple[str, ...]


def choose(study: Study, results: Sequence[TrialResult]) -> dict[Cell, Choice]:
    """The best point of every tuned cell, by the mean over the tuning seeds; one that diverged or failed is the worst.

    Points that lack a result of any tuning seed are not compared.

    Args:
        study: The study.
        results: Its results; those of other stages are passed over.
    """
    if study.tuning is None:
        return {}
    choices = {}
    for labels in cells(study):
        space = space_of(study.tuning, labels)
        if not space:
            continue
        cell = tuple(labels.values())
        tried = _tried(study.metric, study.tuning, cell, results)
        finite = [(point, value) for point, value in tried if math.isfinite(value)]
        if not finite:
            choices[cell] = Choice(None, math.nan, len(tried), ())
            continue
        point, value = (max if study.metric.mode == "max" else min)(finite, key=lambda each: each[1])
        on_edge = []
        for key, dimension in space.items():
            ends = edges(dimension, [other[key] for other, _ in tried])
            if ends is not None and point[key] in ends and ends[0] != ends[1]:
                on_edge.append(key)
        choices[cell] = Choice(point, value, len(tried), tuple(on_edge))
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
        tried = [point for point, _ in _tried(study.metric, study.tuning, cell, results)]
        for key in choice.on_edge:
            further = beyond(space[key], sorted({point[key] for point in tried}), (choice.point or {})[key])
            if further is not None:
                point = {**(choice.point or {}), key: further}
                trials += [make_trial(study, "tuning", labels, point, seed) for seed in study.tuning.seeds]
    return trials


def tuning_rounds(study: Study, stored: Mapping[str, TrialResult]) -> list[list[Trial]]:
    """All tuning trials that the study asks for: those of its plan, then each extension that is known by now.

    A cell goes on past its edge only when every trial it was asked for before has a result. So a study that goes on
    after an interruption, wherever that was, asks for what it would have asked for without.

    Args:
        study: The study.
        stored: Results by key.
    """
    rounds = [tuning_trials(study)]
    results: list[TrialResult] = []
    waiting: set[Cell] = set()
    while rounds[-1]:
        results += results_for(rounds[-1], stored)
        waiting |= {trial.cell for trial in rounds[-1] if trial.key not in stored}
        rounds.append([trial for trial in extensions(study, results) if trial.cell not in waiting])
    return rounds[:-1]


def _tried(
    metric: Metric, tuning: Tuning, cell: Cell, results: Sequence[TrialResult]
) -> list[tuple[Mapping[str, Any], float]]:
    """The points with a result of every seed, and the mean of the metric: NaN where a seed did not finish."""
    points: dict[str, Mapping[str, Any]] = {}
    values: dict[str, dict[int, float]] = {}
    for result in results:
        if result.stage == "tuning" and result.cell == cell:
            text = json.dumps(dict(result.point), sort_keys=True)  # a value may be a list
            points[text] = result.point
            values.setdefault(text, {})[result.seed] = result.value(metric)
    complete = {text: each for text, each in values.items() if set(tuning.seeds) <= set(each)}
    return [(points[text], float(numpy.mean(list(each.values())))) for text, each in complete.items()]
