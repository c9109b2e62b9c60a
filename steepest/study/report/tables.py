"""The tables of a report, as text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steepest.study.analysis.selection import metric_named, others, points_by_cell, varied_number
from steepest.study.analysis.sensitivity import Sensitivity, envelope, sensitivity
from steepest.study.analysis.speed import TimeToTarget, performance_profiles, speed_ups, workload_times
from steepest.study.analysis.statistics import INTERVALS, TESTS, Comparison, best, compare_pairs
from steepest.study.analysis.summary import NEVER, SummaryRow, by_workload, groups_of, never_finished
from steepest.study.analysis.wording import capital, is_share, number, value_text
from steepest.study.figures import NothingToDraw
from steepest.study.question.axes import axis_label, cell_name, label_of
from steepest.study.question.definition import Study
from steepest.study.report.sentences import winning_row
from steepest.study.trials.plan import describe
from steepest.study.trials.results import TrialResult
from steepest.study.trials.tuning import choose

MOST_PAIRS = 45


@dataclass(frozen=True)
class ReportTable:
    """A table of texts.

    Attributes:
        caption: What it shows.
        columns: Heads; those of numbers are listed in `numbers`.
        rows: Texts, as many as heads; the first is the head of its row.
        numbers: Places of the columns that are set flush right.
        marked: Places of the rows that stand out.
        note: What must be known to read it.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    marked: frozenset[int] = frozenset()
    note: str = ""


def summary(study: Study, rows: Sequence[SummaryRow]) -> ReportTable:
    """A row for each cell: metric, interval, what did not finish, time to target, tuned values."""
    metric = study.metric
    axes = tuple(axis.name.replace("_", " ") for axis in study.axes)
    tuned = any(row.point or row.never for row in rows)
    columns = (*axes, *(("tuned",) if tuned else ()), "mean", "sd", "n", "95 % interval", "diverged", "failed")
    columns += ("steps to target", "seconds to target") if metric.target is not None else ()
    columns += ("training s",)
    winners = [winning_row(study, own) for own in by_workload(study, rows).values()]
    texts = []
    for row in rows:
        value = row.value
        interval = "–" if math.isnan(value.low) else f"{value_of(study, value.low)} to {value_of(study, value.high)}"
        words = [*row.labels.values(), *([NEVER if row.never else _point(row.point, row.on_edge)] if tuned else [])]
        words += [value_of(study, value.mean), _deviation(study, value.standard_deviation), str(value.count), interval]
        words += [str(row.statuses["diverged"]), str(row.statuses["failed"])]
        if row.target is not None:
            words += [_time(row.target, row.target.median_steps), _time(row.target, row.target.median_seconds)]
        texts.append((*words, number(float(f"{row.train_seconds:.3g}"))))
    first = len(axes) + tuned
    unit = " in per cent" if is_share(metric.name) else ""
    return ReportTable(
        caption=f"{metric.label}{unit}, {'best' if metric.at == 'best' else 'at the end'}, over the finished seeds",
        columns=columns,
        rows=tuple(texts),
        numbers=frozenset(range(first, len(columns))),
        marked=frozenset(place for place, row in enumerate(rows) if any(row is winner for winner in winners)),
        note=f"The best cell {'of each workload ' if study.workloads else ''}is marked. sd is the standard deviation "
        f"over seeds, n the number of finished seeds, intervals are {INTERVALS[study.statistics.interval]}, training s "
        "the mean time of a finished run inside training steps."
        + (
            " Times to target are medians over the seeds that finished or diverged."
            if metric.target is not None
            else ""
        ),
    )


def comparisons(study: Study, rows: Sequence[SummaryRow]) -> ReportTable | None:
    """The difference of every two cells of a workload, or of each from the best if there are many.

    None if there is no pair of cells that can be tested.
    """
    texts, total, left_out = [], 0, 0
    for workload, own in by_workload(study, rows).items():
        groups = groups_of(study, own)
        winner = best(groups, study.metric.mode, study.statistics.test)
        if winner is None:
            continue
        pairs = compare_pairs(groups, study.statistics.test)
        total += sum(pair.reason is None for pair in pairs)
        kept = pairs if len(pairs) <= MOST_PAIRS else [p for p in pairs if winner.name in (p.first, p.second)]
        left_out += len(pairs) - len(kept)
        where = (workload,) if study.workloads else ()
        texts += [(*where, *_comparison(study, pair, winner.level)) for pair in kept]
    if not total:
        return None
    of_differences = "those of the paired t-test" if study.statistics.test == "paired" else "Welch's"
    only = " Only pairs with the best cell are shown." if left_out else ""
    unit = " (points)" if is_share(study.metric.name) else ""
    columns = ("first", "second", f"difference{unit}", "95 % interval", "Hedges' g", "p", "p, adjusted", "")
    first = 1 if study.workloads else 0
    return ReportTable(
        caption=f"Differences of {study.metric.label} between cells",
        columns=(*(("workload",) if study.workloads else ()), *columns),
        rows=tuple(texts),
        numbers=frozenset(range(2 + first, 7 + first)),
        note=f"{capital(TESTS[study.statistics.test])}; p-values are adjusted by Holm's method for the number of "
        f"pairs tested on a workload ({total:,} in all), intervals are {of_differences} and of one pair each.{only}",
    )


def speeds(study: Study, results: Sequence[TrialResult]) -> ReportTable | None:
    """Performance scores and mean speed-ups; None without a target, or if more than one axis is compared."""
    axes = [axis for axis in study.axes if axis.name not in study.workloads]
    if study.metric.target is None or len(axes) != 1 or len(axes[0].alternatives) < 2:
        return None
    by = axes[0].name
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


def tuning(study: Study, results: Sequence[TrialResult]) -> ReportTable | None:
    """What was chosen for each tuned cell; None without tuning."""
    choices = choose(study, results)
    if not choices:
        return None
    texts = [
        (
            cell_name(study, [axis.name for axis in study.axes], cell),
            "no point finished" if choice.point is None else _point(choice.point, ()),
            value_of(study, choice.value),
            str(choice.trials),
            f"{spoken_keys(choice.on_edge)}: a better value may lie beyond" if choice.on_edge else "",
        )
        for cell, choice in choices.items()
    ]
    unit = " (%)" if is_share(study.metric.name) else ""
    return ReportTable(
        caption="Tuned values, by the best mean over the tuning seeds",
        columns=("cell", "chosen", f"{study.metric.label}{unit}", "points tried", "on the edge of its range"),
        rows=tuple(texts),
        numbers=frozenset((2, 3)),
    )


def broken(study: Study, results: Sequence[TrialResult]) -> ReportTable | None:
    """Trials that diverged or failed, with the reason; None if there are none."""
    texts = [
        (
            describe(result.labels, result.point),
            result.stage,
            str(result.seed),
            result.status,
            f"training loss not finite or above {study.bound:g} at step {result.diverged_at:,}"
            if result.status == "diverged" and result.diverged_at is not None
            else result.error or "",
        )
        for result in results
        if result.status != "finished"
    ]
    if not texts:
        return None
    columns = ("cell", "stage", "seed", "status", "reason")
    return ReportTable("Trials that diverged or failed", columns, tuple(texts), frozenset((2,)))


def environment(content: Mapping[str, Any]) -> ReportTable | None:
    """Versions, machine and devices; None without a record."""
    texts = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            texts += [(str(name), str(each)) for name, each in value.items()]
        elif value not in (None, [], ""):
            shown_value = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            texts.append((str(key).replace("_", " "), shown_value))
    return ReportTable("Environment of the last start", ("", "value"), tuple(texts)) if texts else None


def value_of(study: Study, value: float) -> str:
    """A value of the metric, without its unit."""
    return value_text(study.metric.name, value).removesuffix(" %")


def spoken_keys(keys: Sequence[str]) -> str:
    """Names of tuned options in words."""
    return ", ".join(axis_label(key) for key in keys)


def _comparison(study: Study, pair: Comparison, level: float) -> tuple[str, ...]:
    difference = _difference(study, pair.difference)
    if pair.reason is not None:
        return (
            pair.first,
            pair.second,
            difference,
            "–",
            "–",
            "–",
            "–",
            pair.reason.partition(",")[0],
        )
    verdict = "different" if pair.adjusted_p_value < level else "not distinguishable"
    interval = f"{_difference(study, pair.low)} to {_difference(study, pair.high)}"
    effect = _rounded(pair.effect_size)
    return (pair.first, pair.second, difference, interval, effect, _p(pair.p_value), _p(pair.adjusted_p_value), verdict)


def _deviation(study: Study, value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{100 * value:.2f}" if is_share(study.metric.name) else f"{value:.2g}"


def _difference(study: Study, value: float) -> str:
    if math.isnan(value):
        return "–"
    return (f"{100 * value:+.2f}" if is_share(study.metric.name) else f"{value:+.3g}").replace("-", "−")


def _rounded(value: float) -> str:
    return number(float(f"{value:.3g}")).replace("-", "−")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _time(target: TimeToTarget, median: float) -> str:
    missed = target.count - target.reached
    if not target.count or math.isnan(median):
        return "–"
    said = "never" if not target.reached else "∞" if math.isinf(median) else number(float(f"{median:.4g}"))
    return f"{said} ({missed} of {target.count} missed)" if missed and target.reached else said


def _point(point: Mapping[str, Any], on_edge: Sequence[str]) -> str:
    return ", ".join(
        # Kept on one line by spaces that do not break.
        f"{axis_label(key)} {label_of(value)}".replace(" ", "\N{NO-BREAK SPACE}")
        + (" (edge of its range)" if key in on_edge else "")
        for key, value in point.items()
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
