"""Whether what is best for one size is best for another."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import (
    Cell,
    grouped,
    is_log_spaced,
    numeric_axes,
    of_stage,
    others,
    points_of,
    scalar,
    trials_over,
    tuned_options,
)
from steepest.study.analysis.sensitivity import Sensitivity, sensitivity, shift
from steepest.study.analysis.statistics import Summary, spread, summarize
from steepest.study.analysis.wording import (
    axis_text,
    capital,
    is_share,
    number,
    scalar_label,
    set_unit,
    spoken,
    value_text,
)
from steepest.study.figures.key import Key
from steepest.study.figures.style import Look, few_decades, figure_kind, panels
from steepest.study.question.axes import axis_label, axis_named, numbers_of
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult

MARGIN = 1.2  # above and below the rates that were tried


@figure_kind
def transfer(
    study: Study, results: Sequence[TrialResult], folder: Path, axis: str | None = None, rate: str | None = None
) -> list[Drawing]:
    """The best learning rate and the metric over widths, and how much each varies.

    Args:
        study: What was asked.
        results: What came out.
        folder: Of the study.
        axis: The axis of sizes; by default the last axis of numbers that is not the rate.
        rate: The axis or tuned option whose optimum is looked at; by default the first tuned option, else the first
            axis of numbers that varies a learning rate; without one only the metric is drawn.
    """
    rate = rate or _rate_of(study)
    sizes = [name for name in numeric_axes(study) if name != rate]
    if axis is None and not sizes:
        raise NothingToDraw("No axis of this study has sizes for values.")
    axis = axis or sizes[-1]
    numbers = numbers_of(axis_named(study, axis))
    if numbers is None:
        raise ValueError(f"axis of a figure of transfer must have numbers for values, {axis} has names")
    names = others(study, axis, rate or "")
    optima = {} if rate is None else _optima(study, results, axis, rate, names)
    values = _values(study, results, axis, rate, names, optima)
    if not any(summary.count for own in values.values() for summary in own.values()):
        raise NothingToDraw(f"No finished trial has logged {study.metric.name}.")
    key = Key.of(study, names, values)
    count = 2 + bool(optima)
    figure, grid = panels(count, columns=count, legend=key.height(count))
    remaining = list(grid)
    if optima:
        _draw_optima(remaining.pop(0), optima, key.looks, numbers, axis_label(rate or ""))
    _draw_values(remaining[0], values, key.looks, numbers, axis_text(study, study.metric.name))
    set_unit(remaining[0].yaxis, study.metric.name)
    for axes in grid[:-1]:
        axes.set_xlabel(axis_label(axis))
        if is_log_spaced(numbers.values()):
            axes.set_xscale("log")
            axes.set_xticks(list(numbers.values()), [number(value) for value in numbers.values()])
            axes.minorticks_off()
    spreads = {cell: spread([summary.mean for summary in own.values()]) for cell, own in values.items()}
    _draw_spreads(grid[-1], spreads, key.looks, study.metric.name, axis_label(axis))
    key.add(figure)
    moved = _shifts(optima, key, axis_label(axis), axis_label(rate or ""))
    return [
        Drawing(
            title=f"Transfer over {axis_label(axis)}",
            caption=_caption(study, axis, rate, bool(optima)) + moved,
            alternative=f"Over {axis_label(axis)}, standard deviation of the {study.metric.label}: "
            + "; ".join(f"{key.text(cell)} {value_text(study.metric.name, value)}" for cell, value in spreads.items())
            + f".{moved}",
            figure=figure,
            wide=True,
        )
    ]


def _rate_of(study: Study) -> str | None:
    tuned = tuned_options(study)
    if tuned:
        return tuned[0]
    keys = {axis.name: axis.key or "" for axis in study.axes}
    return next((name for name in numeric_axes(study) if keys[name].rsplit(".", 1)[-1] == "lr"), None)


def _optima(
    study: Study, results: Sequence[TrialResult], axis: str, rate: str, names: Sequence[str]
) -> dict[Cell, dict[str, Sensitivity]]:
    found: dict[Cell, dict[str, Sensitivity]] = {}
    for (*cell, size), members in grouped(study, trials_over(study, results, rate), [*names, axis]).items():
        points = points_of(members, study.metric, rate)
        if points:
            found.setdefault(tuple(cell), {})[size] = sensitivity(points, study.metric.mode)
    return found


def _values(
    study: Study,
    results: Sequence[TrialResult],
    axis: str,
    rate: str | None,
    names: Sequence[str],
    optima: Mapping[Cell, Mapping[str, Sensitivity]],
) -> dict[Cell, dict[str, Summary]]:
    found: dict[Cell, dict[str, Summary]] = {}
    if rate in [each.name for each in study.axes]:  # each size at its own best rate
        for cell, sizes in optima.items():
            for size, own in sizes.items():
                if own.best is not None:
                    found.setdefault(cell, {})[size] = own.summaries[own.best]
        return found
    for (*cell, size), members in grouped(study, of_stage(results, "final"), [*names, axis]).items():
        found.setdefault(tuple(cell), {})[size] = summarize(
            [scalar(study, each, study.metric.name) for each in members]
        )
    return found


def _draw_optima(
    axes: Axes,
    optima: Mapping[Cell, Mapping[str, Sensitivity]],
    entries: Mapping[Cell, Look],
    numbers: Mapping[str, float],
    label: str,
) -> None:
    axes.set_yscale("log")
    # All rates that were tried: a shift is large or small beside them, not beside itself.
    tried = [value for sizes in optima.values() for own in sizes.values() for value in own.values]
    if len(set(tried)) > 1:
        axes.set_ylim(min(tried) / MARGIN, max(tried) * MARGIN)
    few_decades(axes.yaxis, tried)
    for cell, look in entries.items():
        found = {size: own for size, own in optima.get(cell, {}).items() if own.best is not None}
        axes.plot([numbers[size] for size in found], [own.optimum for own in found.values()], **look.line())
        for size, own in found.items():
            face = "white" if own.at_edge else look.color
            axes.plot(numbers[size], own.optimum, look.marker, ms=6, mfc=face, mec=look.color, mew=1.1)
    axes.set_title(f"Best {label}")
    axes.set_ylabel(label)


def _draw_values(
    axes: Axes,
    values: Mapping[Cell, Mapping[str, Summary]],
    entries: Mapping[Cell, Look],
    numbers: Mapping[str, float],
    label: str,
) -> None:
    for cell, look in entries.items():
        own = values.get(cell, {})
        x = [numbers[size] for size in own]
        axes.plot(x, [summary.mean for summary in own.values()], **look.points())
        axes.vlines(x, [each.low for each in own.values()], [each.high for each in own.values()], colors=look.color)
    axes.set_title(capital(label))
    axes.set_ylabel(label)


def _draw_spreads(
    axes: Axes, spreads: Mapping[Cell, float], entries: Mapping[Cell, Look], metric: str, size: str
) -> None:
    order = list(entries)
    for row, cell in enumerate(order):
        value = spreads.get(cell, math.nan)
        axes.bar(row, value, 0.65, color=entries[cell].color)
        if math.isfinite(value):
            axes.annotate(
                number(float(f"{value * (100 if is_share(metric) else 1):.2g}")),
                (row, value),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    axes.set_xticks([])
    axes.margins(y=0.12)
    axes.set_title("Spread (lower: less affected)")
    axes.set_ylabel(f"standard deviation\nover {size}{' (points)' if is_share(metric) else ''}")
    set_unit(axes.yaxis, metric)
    axes.grid(visible=False, axis="x")


def _shifts(optima: Mapping[Cell, Mapping[str, Sensitivity]], key: Key, size: str, rate: str) -> str:
    """The best rate at each size, and by how much it moves over all of them, for each line."""
    sizes = list(dict.fromkeys(label for own in optima.values() for label in own))
    parts = []
    for cell in key.looks:
        found = {label: own for label, own in optima.get(cell, {}).items() if own.best is not None}
        if len(found) > 1:
            rates = [_rate_text(found.get(label)) for label in sizes]
            shifted = _shift(found[min(found, key=sizes.index)], found[max(found, key=sizes.index)])
            parts.append(f"{key.text(cell) + ' ' if key.names else ''}{spoken(rates)} ({shifted})")
    ends = f"and its shift from the first to the last: {'; '.join(parts)}"
    return f" Best {rate} at {size} {spoken(sizes)}, {ends}." if parts else ""


def _rate_text(own: Sensitivity | None) -> str:
    return "–" if own is None else f"{number(float(f'{own.optimum:.2g}'))}{' at the edge' * own.at_edge}"


def _shift(first: Sensitivity, last: Sensitivity) -> str:
    octaves = shift(first, last)
    # An optimum on the edge may lie beyond: a higher last one makes the shift larger, a higher first one smaller.
    beyond = {(own is last) == (own.best > 0) for own in (first, last) if own.at_edge and own.best is not None}
    if math.isnan(octaves) or len(beyond) == 2:
        return "shift not known"
    bound = {True: "at least ", False: "at most "}[beyond.pop()] if beyond else ""
    return f"{bound}{round(octaves, 1) + 0.0:+.1f} octaves".replace("-", "−")  # without a negative zero


def _caption(study: Study, axis: str, rate: str | None, has_optima: bool) -> str:
    name, size = scalar_label(study, study.metric.name), axis_label(axis)
    tell = (
        f"Left: the best {axis_label(rate or '')} at each {size}, by a parabola through the best point and its "
        "neighbours; hollow where the best point is the first or last of its grid, so that it is a bound. "
        if has_optima
        else ""
    )
    at = f" at its own best {axis_label(rate)}" if has_optima and rate else ""
    return (
        f"{tell}{'Middle' if has_optima else 'Left'}: {name} at each {size}{at}, with 95 % intervals (t). Right: "
        f"standard deviation of its means over {size}."
    )
