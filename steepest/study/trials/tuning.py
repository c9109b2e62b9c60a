"""The choice of the tuned options."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from steepest.study.question.definition import Metric, Study, Tuning
from steepest.study.question.spaces import beyond, edges, space_of
from steepest.study.trials.plan import Cell, Trial, cells, make_trial, tuning_trials
from steepest.study.trials.results import TrialResult, results_for


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


def results_of(study: Study, results: Sequence[TrialResult]) -> list[TrialResult]:
    """The results of those trials that the study asks for, in the order of its cells, points and seeds.

    A trial is known by its key, so a result counts whatever its labels and stage were when it was run: an axis may have
    been renamed since, or a seed have become one of the final ones. Two cells that ask for the same trial, as a fixed
    learning rate and a tuned one that comes out the same, have its one result each. Final trials at any point of the
    tuning are among them. Results of trials that the study does not ask for are kept on the disk, and not reported.
    """
    stored = {result.key: result for result in results}
    tuning = [trial for trials in tuning_rounds(study, stored) for trial in trials]
    order = {tuple(labels.values()): position for position, labels in enumerate(cells(study))}
    tried = [(labels, {}) for labels in cells(study) if study.tuning is None or not space_of(study.tuning, labels)]
    if study.tuning is not None:
        tried += [(trial.labels, trial.point) for trial in tuning if trial.seed == study.tuning.seeds[0]]
    final = [make_trial(study, "final", labels, point, seed) for labels, point in tried for seed in study.seeds]
    found = results_for([*tuning, *final], stored)
    return sorted(found, key=lambda r: (r.stage != "tuning", order[r.cell], str(dict(r.point)), r.seed))


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
