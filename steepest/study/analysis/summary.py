"""The summary of a study: a row for each cell, and the table that people read in the terminal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steepest.study.analysis.speed import TimeToTarget, time_to_target
from steepest.study.analysis.statistics import INTERVALS, TESTS, Summary, best, summarize
from steepest.study.question.axes import cell_name, label_of
from steepest.study.question.definition import Metric, Study
from steepest.study.trials.plan import cells, tuning_trials
from steepest.study.trials.results import TrialResult
from steepest.study.trials.tuning import choose

NEVER = "diverged everywhere"  # in the place of tuned values
STATUSES = ("finished", "diverged", "failed")
MOST_NAMES = 8  # of cells in a line of the terminal; the report has them all
NEAR_ENOUGH = 0.98  # of a run's steps: scalars of training are means that may lag behind by a few


@dataclass(frozen=True)
class SummaryRow:
    """One cell of a study, over the seeds of its final trials.

    Attributes:
        labels: Label on every axis.
        point: Tuned values; empty where nothing is tuned.
        on_edge: Tuned options whose best value was the lowest or highest tried, so that a better one may lie beyond.
        values: The metric by seed, NaN of one that diverged; failed trials are left out, since an error says nothing of
            the optimizer.
        value: Their summary.
        target: Time to the target; None without a target.
        train_seconds: Mean training time of the trials that finished, in seconds; NaN if none did.
        statuses: Number of trials by status: finished, diverged, failed.
        never: Whether there are no final trials, since runs diverged at every point of the tuning.
    """

    labels: Mapping[str, str]
    point: Mapping[str, Any]
    on_edge: tuple[str, ...]
    values: Mapping[int, float]
    value: Summary
    target: TimeToTarget | None
    train_seconds: float
    statuses: Mapping[str, int]
    never: bool = False

    @property
    def name(self) -> str:
        """The labels in one line."""
        return ", ".join(self.labels.values())


def reported(study: Study, results: Sequence[TrialResult]) -> list[TrialResult]:
    """The final trials at the points that the tuning now chooses.

    Trials at another point are those of an earlier choice, before a grid was extended or a study changed.

    Args:
        study: The study.
        results: Its trials of all stages.
    """
    choices = choose(study, results)
    return [
        result
        for result in results
        if result.stage == "final"
        and (
            (choice := choices.get(result.cell)) is None
            or choice.point is None
            or dict(result.point) == dict(choice.point)
        )
    ]


def never_finished(study: Study, results: Sequence[TrialResult]) -> list[dict[str, str]]:
    """Labels of the cells that have no final trials since runs diverged at every point of their tuning.

    A cell in whose tuning a trial failed is not among them, since an error says nothing of the optimizer, nor is one
    whose tuning trials are not all there yet.

    Args:
        study: The study.
        results: Its trials of all stages.
    """
    without = {cell for cell, choice in choose(study, results).items() if choice.point is None}
    trials = tuning_trials(study) if without else []
    found = []
    for labels in cells(study):
        cell = tuple(labels.values())
        ends = [result.status for result in results if result.stage == "tuning" and result.cell == cell]
        if cell in without and "failed" not in ends and len(ends) >= sum(trial.cell == cell for trial in trials) > 0:
            found.append(labels)
    return found


def summary_table(study: Study, results: Sequence[TrialResult]) -> list[SummaryRow]:
    """A row for each cell of a study, in the order of its axes, also for those without a trial so far.

    Args:
        study: The study.
        results: Its trials of all stages (`steepest.study.trials.tuning.results_of`).
    """
    choices, final = choose(study, results), reported(study, results)
    never = never_finished(study, results)
    rows = []
    for labels in cells(study):
        cell = tuple(labels.values())
        own = [result for result in final if result.cell == cell]
        choice = choices.get(cell)
        point = choice.point if choice is not None else None
        values = {result.seed: result.value(study.metric) for result in own if result.status != "failed"}
        seconds = [result.train_seconds for result in own if result.status == "finished"]
        rows.append(
            SummaryRow(
                labels=labels,
                point=point if point is not None else own[0].point if own else {},
                on_edge=choice.on_edge if choice is not None else (),
                values=values,
                value=summarize(list(values.values()), study.statistics.interval),
                target=time_to_target(own, study.metric) if study.metric.target is not None else None,
                train_seconds=float(numpy.mean(seconds)) if seconds else math.nan,
                statuses={status: sum(result.status == status for result in own) for status in STATUSES},
                never=labels in never and not own,
            )
        )
    return rows


def by_workload(study: Study, rows: Sequence[SummaryRow]) -> dict[str, list[SummaryRow]]:
    """Rows that are compared with each other, by the name of their workload; "" if the study names no workloads."""
    groups: dict[str, list[SummaryRow]] = {}
    for row in rows:
        workload = cell_name(study, study.workloads, [row.labels[name] for name in study.workloads])
        groups.setdefault(workload, []).append(row)
    return groups


def row_name(study: Study, row: SummaryRow) -> str:
    """What tells a cell from the others of its workload, with the axes of its numbers."""
    names = [name for name in row.labels if name not in study.workloads]
    return cell_name(study, names, [row.labels[name] for name in names])


def groups_of(study: Study, rows: Sequence[SummaryRow]) -> dict[str, Mapping[int, float]]:
    """The metric's values by seed, by the name of the cell; cells without a trial are left out."""
    return {row_name(study, row): row.values for row in rows if row.values}


def never_names(study: Study, rows: Sequence[SummaryRow]) -> tuple[str, ...]:
    """Names of the cells without final trials since their tuning diverged everywhere."""
    return tuple(row_name(study, row) for row in rows if row.never)


def print_summary(console: Console, study: Study, rows: Sequence[SummaryRow]) -> None:
    """Print the summary as a table, one line a cell, and what it says of the best one.

    Args:
        console: Where to.
        study: The study.
        rows: Its summary.
    """
    metric = study.metric
    columns = [(axis.name.replace("_", " "), [row.labels[axis.name] for row in rows]) for axis in study.axes]
    if any(row.point or row.never for row in rows):
        columns.append(("tuned", [_point(row) for row in rows]))
    texts = len(columns)
    interval = "± 95 %" if study.statistics.interval == "t" else f"(95 %, {INTERVALS[study.statistics.interval]})"
    columns.append((f"{metric.label or metric.name} {interval}", [_mean(row.value, study) for row in rows]))
    columns.append(("finished", [f"{row.statuses['finished']} of {sum(row.statuses.values())}" for row in rows]))
    if any(row.value.diverged for row in rows):
        columns.append(("diverged", [str(row.value.diverged) for row in rows]))
    if metric.target is not None:
        columns.append((f"steps to {shown(metric.target, metric)}", [_steps(row.target) for row in rows]))
    columns.append(("trained", [_seconds(row.train_seconds) for row in rows]))
    table = Table(title=Text(f"{study.name}, {study.scale}"), title_justify="left")
    for place, (name, _) in enumerate(columns):
        table.add_column(Text(name), justify="left" if place < texts else "right", overflow="fold")
    for words in zip(*(values for _, values in columns), strict=True):
        table.add_row(*map(Text, words))
    console.print(table)
    if any(row.on_edge for row in rows):
        console.print(Text("* the best value is the lowest or highest tried"))
    for workload, own in by_workload(study, rows).items():
        for line in _remarks(study, workload, own):
            console.print(Text(line))


def unjudged_end(study: Study, results: Sequence[TrialResult]) -> str | None:
    """A warning if the metric's last value is from before the end of the schedule.

    Evaluations every n batches leave the end of a run out unless n divides its length, and rankings change while the
    learning rate falls.

    Args:
        study: The study.
        results: Its trials.

    Returns:
        One sentence with the step of the last evaluation where most is missing, or None.
    """
    if study.metric.at != "final":
        return None
    ends = [
        (result.history[study.metric.name][-1][0], result.steps)
        for result in results
        if result.status == "finished" and result.steps > 0 and result.history.get(study.metric.name)
    ]
    early = [(last, steps) for last, steps in ends if last < NEAR_ENOUGH * steps]
    if not early:
        return None
    last, steps = min(early, key=lambda end: end[0] / end[1])
    return (
        f"the last value of {study.metric.name} is from step {last:,} of {steps:,}, so that the end of the schedule is "
        "not judged: evaluate at the end of epochs, or every n batches where n divides their number"
    )


def shown(value: float, metric: Metric) -> str:
    """A value of the metric as people read it: accuracies in per cent."""
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:.2f} %" if metric.name.endswith("accuracy") else f"{value:.4g}"


def _mean(summary: Summary, study: Study) -> str:
    metric = study.metric
    if study.statistics.interval != "t" and not math.isnan(summary.low):  # not symmetric
        low, high = (shown(end, metric).removesuffix(" %") for end in (summary.low, summary.high))
        return f"{shown(summary.mean, metric)} ({low} to {high})"
    if math.isnan(summary.low):
        return shown(summary.mean, metric)
    return f"{shown(summary.mean, metric).removesuffix(' %')} ± {shown(summary.high - summary.mean, metric)}"


def _seconds(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds:.3g} s"


def _steps(target: TimeToTarget | None) -> str:
    if target is None or not target.count:
        return "-"
    missed = "" if target.reached == target.count else f" ({target.reached}/{target.count})"
    return f"{target.median_steps:g}{missed}" if math.isfinite(target.median_steps) else f"never{missed}"


def _point(row: SummaryRow) -> str:
    if row.never:
        return NEVER
    return ", ".join(
        f"{key.rpartition('.')[2]} {label_of(value)}{'*' if key in row.on_edge else ''}"
        for key, value in row.point.items()
    )


def _remarks(study: Study, workload: str, rows: Sequence[SummaryRow]) -> list[str]:
    groups = groups_of(study, rows)
    winner = best(groups, study.metric.mode, study.statistics.test)
    never = never_names(study, rows)
    if winner is None or len(groups) + len(never) < 2:
        return []
    lines = [f"{f'{workload}: ' if workload else ''}best: {winner.name} ({shown(winner.mean, study.metric)})"]
    for names, words in (
        (
            winner.indistinguishable,
            f"not distinguishable from it ({TESTS[study.statistics.test]}, Holm's correction, {winner.level:g})",
        ),
        (winner.untestable, "too few runs to compare with it"),
        (winner.constant, "cannot be tested against it, since results do not vary over seeds"),
        (winner.diverged, "diverged, none finished"),
        (never, "no final trials, since tuning diverged everywhere"),
        (winner.unreliable, "better where it finished, but it diverged too"),
    ):
        more = f"; and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        lines += [f"  {words}: {'; '.join(names[:MOST_NAMES])}{more}"] if names else []
    return lines
