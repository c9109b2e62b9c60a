"""Figures of stability on a quadratic: rates over the learning rate, losses around the limit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from steepest.common.plotting import BLUE, GREEN, ORANGE, VERMILION, light_grid
from steepest.diagnostics.stability.theory import BestConstants, Rule, rates

COLUMNS = 3
FLOOR, CEILING = 1e-12, 1e6  # of relative losses that are drawn


@dataclass(frozen=True)
class Panel:
    """What is drawn of one rule.

    Attributes:
        rule: The rule.
        limit: Largest stable learning rate, predicted.
        lrs: Learning rates at which the rate was measured.
        measured: The rates measured there.
        best: The best constants.
        losses: Loss over the first one, by learning rate over the limit, each of shape (steps + 1,).
    """

    rule: Rule
    limit: float
    lrs: Sequence[float]
    measured: Sequence[float]
    best: BestConstants
    losses: Mapping[float, Tensor]


def rate_curves(panels: Sequence[Panel], curvatures: Tensor) -> Figure:
    """Factor by which the distance to the minimum shrinks in a step, over the learning rate, one panel for each rule.

    Args:
        panels: The rules.
        curvatures: The spectrum, shape (count,).
    """
    figure, axes = _grid(len(panels))
    for panel, place in zip(panels, axes, strict=False):
        grid = [panel.limit * 10 ** (exponent / 100) for exponent in range(-300, 31)]
        predicted = rates(panel.rule, torch.tensor(grid, dtype=torch.float64), curvatures).amax(1)
        place.plot(grid, predicted.tolist(), color=BLUE, linewidth=1.4)
        place.plot(panel.lrs, panel.measured, "o", color=ORANGE, markersize=4.5, markeredgecolor="black", mew=0.5)
        place.plot(
            [panel.best.lr], [panel.best.rate], "*", color=GREEN, markersize=10, markeredgecolor="black", mew=0.5
        )
        place.axvline(panel.limit, color=VERMILION, linestyle="--", linewidth=1.1)
        place.axhline(1.0, color="0.5", linewidth=0.7)
        place.set_xscale("log")
        foot = min([panel.best.rate, *predicted.tolist(), *panel.measured])
        place.set_ylim(max(0.0, foot - 0.15 * (1.05 - foot)), 1.0 + 0.7 * (1.0 - foot) + 0.005)
        place.set_title(panel.rule.name + _constants(panel.rule), fontsize=9, loc="left")
    _label_bottom(axes, len(panels), "learning rate")
    figure.supylabel("factor per step (below 1: converges)", fontsize=10)
    _legend(
        figure,
        Line2D([], [], color=BLUE, label="predicted"),
        _marker("o", ORANGE, "measured with the real optimizer", 5),
        Line2D([], [], color=VERMILION, linestyle="--", label="largest stable learning rate"),
        _marker("*", GREEN, "best constants", 10),
    )
    return figure


def losses_around_the_limit(panels: Sequence[Panel]) -> Figure:
    """Loss over the steps of the real optimizer below, at and above the predicted limit, one panel for each rule."""
    figure, axes = _grid(len(panels))
    colors = dict(zip(panels[0].losses, (BLUE, "black", VERMILION), strict=True))
    for panel, place in zip(panels, axes, strict=False):
        for factor, losses in panel.losses.items():
            shown = [value if FLOOR <= value <= CEILING else math.nan for value in losses.tolist()]
            place.plot(range(len(shown)), shown, color=colors[factor], linewidth=1.1)
        place.set_yscale("log")
        place.set_title(panel.rule.name + _constants(panel.rule), fontsize=9, loc="left")
    _label_bottom(axes, len(panels), "optimizer step")
    figure.supylabel("loss over the first one", fontsize=10)
    names = {factor: "at the limit" if factor == 1 else f"{factor:g} x the limit" for factor in colors}
    _legend(figure, *(Line2D([], [], color=color, label=names[factor]) for factor, color in colors.items()))
    return figure


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.1 * rows + 0.9), layout="constrained")
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes in panels:
        light_grid(axes)
        axes.tick_params(labelsize=8)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels


def _label_bottom(axes: Sequence[Axes], count: int, label: str) -> None:
    for place in axes[max(0, count - COLUMNS) : count]:
        place.set_xlabel(label, fontsize=9)


def _constants(rule: Rule) -> str:
    parts = [f"b = {rule.momentum:g}"] if rule.form != "plain" else []
    parts += [f"c = {rule.zero:.3g}"] if rule.form == "pole_zero" else []
    parts += [f"decay {rule.coupled + rule.decoupled:g}"] if rule.coupled + rule.decoupled else []
    return f" ({', '.join(parts)})" if parts else ""


def _marker(marker: str, color: str, label: str, size: int) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=color, markersize=size, mec="black", mew=0.5, label=label)


def _legend(figure: Figure, *handles: Line2D) -> None:
    figure.legend(handles=list(handles), loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
