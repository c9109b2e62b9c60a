"""The tables of a report that measure: sensitivity to a number, and speed to the target."""

import math
from collections.abc import Sequence
from typing import Any

from steepest.study.definition import Study
from steepest.study.figures import NothingToDraw
from steepest.study.figures.points import metric_named, points_by_cell, varied_number
from steepest.study.figures.selection import others
from steepest.study.figures.words import is_share
from steepest.study.names import axis_label, cell_name
from steepest.study.profiles import performance_profiles, speed_ups, workload_times
from steepest.study.report_tables import ReportTable, value_of
from steepest.study.results import TrialResult
from steepest.study.sensitivity import Sensitivity, envelope, sensitivity
from steepest.study.tables import never_finished


def sensitivities(study: Study, results: Sequence[TrialResult]) -> list[ReportTable]:
    """Best values, good regions and stability limits over every number that a figure draws, or the default one."""
    kinds = ("sensitivity", "envelope")
    wanted = [figure.get("axis") for figure in study.figures if figure["kind"] in kinds] or [None]
    try:
        axes = list(dict.fromkeys(varied_number(study, axis) for axis in wanted))
        tables = [_sensitivity(study, results, axis) for axis in axes]
    except NothingToDraw:
        return []
    return [table for table in tables if table is not None]


def speeds(study: Study, results: Sequence[TrialResult]) -> ReportTable | None:
    """Performance scores and mean speed-ups; None without a target, or if more than one axis is compared."""
    compared = [axis for axis in study.axes if axis.name not in study.workloads]
    if study.metric.target is None or len(compared) != 1 or len(compared[0].alternatives) < 2:
        return None
    by = compared[0].name
    times = {clock: _times(study, results, by, clock) for clock in ("step", "seconds")}
    steps = times["step"]
    if steps is None:
        return None
    baseline = next(iter(steps))
    scores = {clock: performance_profiles(own) for clock, own in times.items() if own is not None}
    gains = {clock: speed_ups(own, baseline) for clock, own in times.items() if own is not None}
    count = len(steps[baseline])
    what = "workloads" if study.workloads else "seeds of the one workload"
    texts = [
        (
            label,
            f"{scores['step'][label].score:.2f}",
            f"{scores['seconds'][label].score:.2f}" if "seconds" in scores else "–",
            f"{gains['step'][label]:.2f}",
            f"{gains['seconds'][label]:.2f}" if "seconds" in gains else "–",
        )
        for label in steps
    ]
    return ReportTable(
        caption=f"Speed to the target over {count} {what}",
        columns=(by.replace("_", " "), "score, steps", "score, time", "speed-up, steps", "speed-up, time"),
        rows=tuple(texts),
        numbers=frozenset(range(1, 5)),
        note="The score is the area under the performance profile up to four times the fastest, 1 for always fastest. "
        f"The speed-up is the geometric mean over {baseline}'s times; a miss counts as four times slower.",
    )


def _sensitivity(study: Study, results: Sequence[TrialResult], axis: str) -> ReportTable | None:
    cells = points_by_cell(study, results, metric_named(study, None), axis, others(study, axis))
    if not cells:
        return None
    texts = []
    for cell, points in cells.items():
        own, limit = sensitivity(points, study.metric.mode), envelope(points)
        largest = "none" if limit.largest is None else f"{limit.largest:.3g}"
        texts.append(
            (
                cell_name(study, others(study, axis), cell) or "all",
                *_best(study, own),
                _good(own),
                largest,
                _first(limit.first_failing),
            )
        )
    name = axis_label(axis)
    unit = " (%)" if is_share(study.metric.name) else ""
    tolerance = "one point" if study.metric.mode == "max" else "5 %"
    return ReportTable(
        caption=f"Sensitivity of {study.metric.label} to {name}",
        columns=("cell", f"best {name}", f"mean{unit}", "at the edge", "good range", "stable up to", "diverges from"),
        rows=tuple(texts),
        numbers=frozenset((1, 2, 5, 6)),
        note=f"The good range holds the values around the best whose mean is within {tolerance} of it; stable up to: "
        "no seed diverged at it or below.",
    )


def _best(study: Study, own: Sensitivity) -> tuple[str, str, str]:
    if own.best is None:
        return "–", "–", ""
    return f"{own.best_value:.3g}", value_of(study, own.summaries[own.best].mean), "yes" if own.at_edge else "no"


def _good(own: Sensitivity) -> str:
    if not own.good:
        return "–"
    low, high = own.values[own.good[0]], own.values[own.good[-1]]
    if low == high:
        return f"{low:.3g} only"
    width = "" if math.isnan(own.good_decades) else f", {own.good_decades:.1f} decades"
    return f"{low:.3g} to {high:.3g}{width}{' or more' if own.good_at_edge else ''}"


def _first(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _times(study: Study, results: Sequence[TrialResult], by: str, clock: Any) -> dict[str, list[float]] | None:
    final = [result for result in results if result.stage == "final"]
    times = workload_times(final, study.metric, by, clock, never_finished(study, results)) if final else {}
    every = [time for own in times.values() for time in own]
    usable = len(times) > 1 and every and not any(math.isnan(time) for time in every)
    return times if usable else None
