"""What a report says in sentences: the answer, the protocol, how far the study has come."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steepest.study.analysis.statistics import INTERVALS, TESTS, Summary, Winner, best
from steepest.study.analysis.summary import SummaryRow, by_workload, groups_of, never_names, row_name, unjudged_end
from steepest.study.analysis.wording import spoken, target_text, value_text
from steepest.study.question.axes import label_of
from steepest.study.question.definition import Axis, Dimension, Space, Study
from steepest.study.question.spaces import points, space_of
from steepest.study.trials.plan import cells, tuning_trials
from steepest.study.trials.results import TrialResult
from steepest.study.trials.tuning import chosen_points

MOST_NAMED = 6
MOST_WORKLOADS = 4


def planned(study: Study, results: Sequence[TrialResult]) -> int:
    """How many trials the study has in all, as far as its tuning has come."""
    # Two cells may ask for the same trial, whose result then stands for each of them.
    tuning = {(trial.cell, trial.key) for trial in tuning_trials(study)}
    tuning |= {(result.cell, result.key) for result in results if result.stage == "tuning"}  # of an extended grid
    without = sum(point is None for point in chosen_points(study, results).values())
    # A cell none of whose tuning trials finished gets no final ones; while some are missing, one may still finish.
    complete = len(tuning) == sum(result.stage == "tuning" for result in results)
    return len(tuning) + (len(cells(study)) - (without if complete else 0)) * len(study.seeds)


def progress(results: Sequence[TrialResult], total: int) -> str:
    """How many trials of so many are there, and how they ended."""
    counts = {status: sum(result.status == status for result in results) for status in ("diverged", "failed")}
    ended = [f"{count} {status}" for status, count in counts.items() if count]
    whole = len(results) >= total
    said = (
        f"{'All' if whole else f'{len(results):,} of'} {total:,} trials {'are done' if whole else 'are there so far'}"
    )
    return f"{said}{', ' + spoken(ended) if ended else ''}."


def answer(study: Study, rows: Sequence[SummaryRow], complete: bool) -> str:
    """The study's answer in one sentence; one of part of the trials says so."""
    answers = []
    for name, own in by_workload(study, rows).items():
        said = _answer(study, own, complete)
        if said:
            answers.append(f"On {name}, {said[0].lower()}{said[1:]}" if name else said)
    if not answers:
        return "No trial of the final stage has finished yet, so there is no answer."
    more = len(answers) - MOST_WORKLOADS
    return " ".join(answers[:MOST_WORKLOADS]) + (f" {more} further workloads are in the table." if more > 0 else "")


def winning_row(study: Study, rows: Sequence[SummaryRow]) -> SummaryRow | None:
    """The best of the cells of one workload; None if nothing finished."""
    winner = best(groups_of(study, rows), study.metric.mode, study.statistics.test)
    return None if winner is None else next(row for row in rows if row_name(study, row) == winner.name)


def _answer(study: Study, rows: Sequence[SummaryRow], complete: bool) -> str:
    groups = groups_of(study, rows)
    winner = best(groups, study.metric.mode, study.statistics.test)
    if winner is None:
        return ""
    row = next(row for row in rows if row_name(study, row) == winner.name)
    at = "best" if study.metric.at == "best" else "final"
    mean = value_text(study.metric.name, winner.mean)
    value = f"{at} {study.metric.label} of {mean} ({interval_text(row.value, study)})"
    never = never_names(study, rows)
    if len(groups) == 1:
        others = f"; {_without_final(never)}" if never else ""
        return f"The only one with a result is {winner.name}, with a {value}{others}."
    others = _others(winner, len(groups) - 1, len(rows) == len(groups), never)
    return f"{'Best' if complete else 'Best so far'} is {winner.name} with a {value}{others}."


def interval_text(summary: Summary, study: Study) -> str:
    """Interval and number of seeds."""
    seeds = f"{summary.count} seed{'s' if summary.count != 1 else ''}"
    if math.isnan(summary.low):
        return f"{seeds}, so no interval"
    low, high = (value_text(study.metric.name, end) for end in (summary.low, summary.high))
    return f"95 % interval {low} to {high}, {seeds}"


def _others(winner: Winner, count: int, whole: bool, never: Sequence[str]) -> str:
    parts = []
    if winner.indistinguishable:
        verb = "is" if len(winner.indistinguishable) == 1 else "are"
        parts.append(f"{_named(winner.indistinguishable)} {verb} not distinguishable from it")
    if winner.untestable:
        verb = "has" if len(winner.untestable) == 1 else "have"
        parts.append(f"{_named(winner.untestable)} {verb} too few finished runs to be compared with it")
    if winner.constant:
        parts.append(f"{_named(winner.constant)} cannot be tested against it, since results do not vary over seeds")
    if winner.diverged:
        verbs = "diverged and has" if len(winner.diverged) == 1 else "diverged and have"
        parts.append(f"{_named(winner.diverged)} {verbs} no finished run")
    told = {*winner.indistinguishable, *winner.untestable, *winner.constant, *winner.diverged, *winner.unreliable}
    worse = count - len(told)
    if worse == count and whole:
        parts.append(
            "it is distinguishably better than "
            + ({1: "the other", 2: "both others"}.get(count) or f"all {count} others")
        )
    elif worse > 0:
        parts.append(f"{worse} {'is' if worse == 1 else 'are'} distinguishably worse")
    if never:
        parts.append(_without_final(never))
    if winner.unreliable:
        parts.append(f"{_named(winner.unreliable)} had a better mean where runs finished, but others diverged")
    return "; " + "; ".join(parts) if parts else ""


def _without_final(never: Sequence[str]) -> str:
    verb = "has" if len(never) == 1 else "have"
    return f"{_named(never)} {verb} no final trials, since runs diverged at every point of the tuning"


def _named(names: Sequence[str]) -> str:
    if len(names) > MOST_NAMED:
        return f"{len(names)} others"
    return spoken([f"“{name}”" if ", " in name else name for name in names])


def protocol(study: Study, results: Sequence[TrialResult] = ()) -> list[tuple[str, str]]:
    """How the study was done: terms and what they mean here.

    Args:
        study: The study.
        results: Its trials, which tell whether a tuning went on beyond its grid.
    """
    metric = study.metric
    at = "at the end of the schedule" if metric.at == "final" else "at its best evaluation"
    parts = [("Scale", study.scale)]
    parts += [(f"Axis “{axis.name.replace('_', ' ')}”", _axis(axis)) for axis in study.axes]
    if study.workloads:
        parts.append(("Workloads", f"{', '.join(study.workloads)}; the rest is compared within each of them"))
    parts += [
        ("Base configs", ", ".join(path.name for path in study.base)),
        ("Options for all", _options(study.options)),
        ("Seeds", f"{', '.join(map(str, study.seeds))}; a seed sets initialization and order of the data"),
        ("Tuning", _tuning(study, results)),
        ("Metric", f"{metric.label} ({metric.name}), {at}; {'more' if metric.mode == 'max' else 'less'} is better"),
        ("Target", "none" if metric.target is None else _target(study)),
        (
            "Clocks",
            "optimizer steps, and seconds inside training steps: evaluation, diagnostics, checkpoints and the first "
            "five steps of a process (warm-up and compilation) are left out",
        ),
        (
            "Divergence",
            f"a training loss that is not finite or above {study.bound:g}; such a run is a result, counted apart from "
            "means and intervals",
        ),
        (
            "Evaluation",
            f"every run is a complete schedule without early stopping{_split(study)}{_early(study, results)}",
        ),
        (
            "Statistics",
            f"means over the seeds that finished, {INTERVALS[study.statistics.interval]} 95 % intervals, "
            f"{TESTS[study.statistics.test]} for pairs with Holm's correction at the level 0.05",
        ),
    ]
    return [(term, text) for term, text in parts if text]


def _split(study: Study) -> str:
    """Which data choose and compare, as far as the metric's name tells."""
    verbs = "choose and compare" if study.tuning is not None or study.metric.at == "best" else "compare"
    return {
        "train": f"; scalars of training {verbs}, data that were held out take no part",
        "val": f", evaluated at the same steps; validation data {verbs}, nothing is fitted to the test data",
        "test": f"; the test data {verbs}{' and so favor what they have chosen' if ' and ' in verbs else ''}",
    }.get(study.metric.name.partition("/")[0], "")


def _early(study: Study, results: Sequence[TrialResult]) -> str:
    early = unjudged_end(study, results)
    return f". But {early}" if early else ""


def _axis(axis: Axis) -> str:
    labels = ", ".join(axis.alternatives)
    return f"{axis.key}: {labels}" if axis.key is not None else labels


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {label_of(value)}" for key, value in options.items())


def _target(study: Study) -> str:
    assert study.metric.target is not None
    sign = "at least" if study.metric.mode == "max" else "at most"
    return (
        f"{sign} {target_text(study.metric.name, study.metric.target)}, at the first evaluation that has it; a run "
        "that never has, or that diverges, counts as infinitely slow"
    )


def _tuning(study: Study, results: Sequence[TrialResult]) -> str:
    tuning = study.tuning
    if tuning is None:
        return "none: all options are as given"
    method = "full grid" if tuning.method == "grid" else f"{tuning.trials} points of a scrambled Halton sequence"
    seeds = f"seed{'s' if len(tuning.seeds) > 1 else ''} {', '.join(map(str, tuning.seeds))}"
    spaces = [_space(tuning.space), *(f"{name}: {_space(space)}" for name, space in tuning.spaces.items())]
    counts = _trial_counts(study, results)
    if not counts or min(counts) == max(counts):
        number = "the same number of trials for every cell that is tuned"
        number += ", unless its best point is on the edge of its grid, which then is extended" if tuning.extend else ""
    else:
        number = (
            f"{min(counts)} to {max(counts)} trials a cell, since grids with the best point on their edge were extended"
        )
    again = "the best mean is run again with the seeds above"
    return f"{method} of {'; '.join(filter(None, spaces))}; {number}; {seeds}; {again}"


def _trial_counts(study: Study, results: Sequence[TrialResult]) -> list[int]:
    """Tuning trials of each tuned cell, as planned or, if its grid was extended, as they are."""
    assert study.tuning is not None
    counts = []
    for labels in cells(study):
        asked = len(points(study.tuning, space_of(study.tuning, labels))) * len(study.tuning.seeds)
        run = sum(each.stage == "tuning" and each.cell == tuple(labels.values()) for each in results)
        counts += [max(asked, run)] if asked else []
    return counts


def _space(space: Space) -> str:
    return ", ".join(f"{key} {_dimension(dimension)}" for key, dimension in space.items()) or "not tuned"


def _dimension(dimension: Dimension) -> str:
    if dimension.scale == "values":
        return "of " + ", ".join(map(label_of, dimension.values))
    low, high = dimension.ends
    points = f", {dimension.points} points" if dimension.points else ""
    return f"{low:g} to {high:g} ({dimension.scale}{points})"
