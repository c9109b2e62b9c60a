"""Figures of learning-rate range tests and stability envelopes."""

import bisect
import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steepest.common.plotting import SERIES, light_grid
from steepest.diagnostics.lr_range.curve import LRCurve, centered
from steepest.diagnostics.lr_range.range_test import LRTrial, largest_stable
from steepest.diagnostics.lr_range.report import by_optimizer
from steepest.diagnostics.lr_range.suggestions import RULES, Rule, combined

COLORS = SERIES[:7]
MARKERS = {"steepest": "v", "minimum": "s", "valley": "o", "slide": "^", "max_stable": "D"}
LABELS = {name: name.replace("_", "-") for name in MARKERS} | {"minimum": "minimum / 10"}


def range_test(curves: Sequence[LRCurve], rule: Rule) -> Figure:
    """Loss over the learning rate, on a logarithmic axis, with what each rule suggests.

    Args:
        curves: Of one or several optimizers and seeds; an optimizer's have one color.
        rule: The rule whose suggestion gets a line.

    Returns:
        A figure of one panel: faint points are losses, lines their average without delay.
    """
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    handles: list[Line2D] = []
    for color, (name, own) in zip(_colors(curves), by_optimizer(curves).items(), strict=True):
        for curve in own:
            axes.plot(curve.learning_rates, curve.losses, ".", color=color, alpha=0.25, markersize=4)
            axes.plot(curve.learning_rates, centered(curve), color=color, linewidth=1.6)
        suggestion = combined(own, rule)
        value = "no suggestion" if suggestion is None else f"{suggestion:.2g} ({LABELS[rule]})"
        handles.append(Line2D([], [], color=color, linewidth=2.0, label=f"{name}: {value}"))
        if suggestion is not None:
            axes.axvline(suggestion, color=color, linestyle="--", linewidth=1.0)
        _mark_suggestions(axes, own, color)
    _frame(axes, curves)
    marks = [
        Line2D([], [], color="0.3", marker=marker, linestyle="", markersize=6, label=LABELS[name])
        for name, marker in MARKERS.items()
    ]
    axes.legend(handles=[*handles, *marks], loc="best", frameon=True, framealpha=0.85, fontsize=8)
    axes.set_xlabel("learning rate (of the first parameter group)")
    axes.set_ylabel("training loss")
    axes.set_title("Learning-rate range test", loc="left", fontsize=11)
    light_grid(axes)
    return figure


def _mark_suggestions(axes, own: Sequence[LRCurve], color: str) -> None:
    curve = own[0]
    losses = centered(curve)
    if not losses:
        return
    for name, marker in MARKERS.items():
        value = combined(own, name)  # type: ignore[arg-type]
        if value is None or not curve.learning_rates[0] <= value <= curve.learning_rates[-1]:
            continue
        place = min(bisect.bisect_left(curve.learning_rates, value), len(losses) - 1)
        axes.plot(value, losses[place], marker, color=color, markeredgecolor="white", markersize=8, zorder=3)


def _frame(axes, curves: Sequence[LRCurve]) -> None:
    # Losses beyond the limit of divergence would press the rest of the curve flat.
    low = min((min(curve.losses) for curve in curves if curve.losses), default=0.0)
    high = max((min(max(curve.losses), curve.limit) for curve in curves if curve.losses), default=1.0)
    reach = high - low or 1.0
    axes.set_ylim(low - 0.05 * reach, high + 0.05 * reach)


def envelope(trials: Sequence[LRTrial]) -> Figure:
    """Final loss over the learning rate with the largest stable one.

    Args:
        trials: Of one or several optimizers and seeds; an optimizer's have one color.

    Returns:
        A figure of one panel: filled points are stable, crosses unstable; those beyond the frame stand at its top.
    """
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    first = max(trial.losses[0] for trial in trials)
    finals = [trial.final for trial in trials if math.isfinite(trial.final)]
    low, high = min([*finals, first]), first + max(first - min([*finals, first]), abs(first) / 2)
    top = high + 0.06 * (high - low)
    handles: list[Line2D] = []
    for color, (name, own) in zip(_colors(trials), by_optimizer(trials).items(), strict=True):
        for seed in dict.fromkeys(trial.seed for trial in own):
            part = [trial for trial in own if trial.seed == seed]
            heights = [trial.final if trial.final < top else top for trial in part]
            axes.plot([trial.learning_rate for trial in part], heights, color=color, linewidth=1.0, alpha=0.5)
            for trial, height in zip(part, heights, strict=True):
                axes.plot(trial.learning_rate, height, "o" if trial.stable else "X", color=color, markersize=7)
        largest = largest_stable(own)
        value = "none stable" if largest is None else f"stable up to {largest:.2g}"
        handles.append(Line2D([], [], color=color, linewidth=2.0, label=f"{name}: {value}"))
        if largest is not None:
            axes.axvline(largest, color=color, linestyle="--", linewidth=1.0)
    axes.axhline(first, color="0.4", linestyle=":", linewidth=1.2)
    handles += [
        Line2D([], [], color="0.3", marker="o", linestyle="", label="stable"),
        Line2D([], [], color="0.3", marker="X", linestyle="", label="unstable"),
        Line2D([], [], color="0.4", linestyle=":", label="first loss"),
    ]
    axes.legend(handles=handles, loc="best", frameon=True, framealpha=0.85, fontsize=8)
    axes.set_ylim(low - 0.06 * (high - low), top + 0.06 * (high - low))
    axes.set_xlabel("learning rate (of the first parameter group)")
    axes.set_ylabel("training loss, mean of the last ten steps")
    steps = max(len(trial.losses) for trial in trials)
    axes.set_title(f"Stability envelope: {steps} steps at each learning rate", loc="left", fontsize=11)
    light_grid(axes)
    return figure


def _colors(results: Sequence[LRCurve] | Sequence[LRTrial]) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(len(by_optimizer(results)))]


assert set(MARKERS) == set(RULES)
