"""Figures of the gradient flow."""

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from steepest.common.history import History
from steepest.common.plotting import (
    BLUE,
    GREEN,
    ORANGE,
    around,
    heat_map,
    height_of_rows,
    label_rows,
    middle_limits,
    positive_log10,
)
from steepest.diagnostics.gradient_flow.flow import FIELDS, GradientFlow

COLORS = {"weight": BLUE, "scale": GREEN, "bias": ORANGE}
LABELS = {"weight": "weights", "scale": "normalization scales", "bias": "biases"}


def gradient_norms(flow: GradientFlow, history: History) -> Figure:
    """Bars of the last gradient norm of every parameter, by layer, with the range over the run.

    Args:
        flow: The last sample, the newest of `history`.
        history: All samples, for the range.

    Returns:
        A figure with the input layer at the top and a logarithmic norm axis.
    """
    layers = list(dict.fromkeys(flow.layers))
    members = {layer: [index for index, owner in enumerate(flow.layers) if owner == layer] for layer in layers}
    ranges = _ranges(flow, history)
    foot, head = _limits(flow, ranges)

    figure = Figure(figsize=(8.0, height_of_rows(len(layers))), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    places = {
        index: (row - 0.4 + 0.8 * (place + 0.5) / len(members[layer]), 0.72 / len(members[layer]))
        for row, layer in enumerate(layers)
        for place, index in enumerate(members[layer])
    }
    drawn = [index for index, norm in enumerate(flow.gradient_norms) if norm > foot and math.isfinite(norm)]
    axes.barh(
        [places[index][0] for index in drawn],
        [flow.gradient_norms[index] - foot for index in drawn],
        [places[index][1] for index in drawn],
        left=foot,
        color=[COLORS[flow.roles[index]] for index in drawn],
    )
    spread = [index for index, (_, high) in enumerate(ranges) if high > foot]
    axes.hlines(
        [places[index][0] for index in spread],
        [max(ranges[index][0], foot) for index in spread],
        [ranges[index][1] for index in spread],
        colors="black",
        linewidth=1.0,
    )
    for index in sorted(set(places) - set(drawn)):
        norm, high = flow.gradient_norms[index], ranges[index][1]
        text = "no gradient" if norm == 0 else f"{norm:.1e}" if math.isfinite(norm) else "not finite"
        axes.text(
            max(high, foot) * 1.1, places[index][0], text, va="center", fontsize=7, color=COLORS[flow.roles[index]]
        )
    axes.set_xlim(foot, head)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlabel(r"Euclidean norm of the gradient, $\|g\|_2$")
    axes.set_title(f"Gradient norm by layer at step {history.steps[-1]:,}", loc="left")
    axes.grid(axis="x", color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    label_rows(axes, layers, offset=0.0)
    handles: list[Patch | Line2D] = [Patch(color=COLORS[role], label=LABELS[role]) for role in _present(flow.roles)]
    handles.append(Line2D([], [], color="black", linewidth=1.0, label="range over the run"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def heat_maps(flow: GradientFlow, history: History) -> Figure:
    """Gradient norm and update-to-weight ratio of every parameter over the run, as two heat maps side by side.

    Args:
        flow: The last sample, the newest of `history`.
        history: All samples.

    Returns:
        A figure with steps from left to right and logarithmic colors; weights, scales and biases are apart, each with
        the input layer at the top. Gray means zero, not finite or not measured. The ratio's colors are centered at the
        rule of thumb 1e-3.
    """
    rows = [index for role in _present(flow.roles) for index, own in enumerate(flow.roles) if own == role]
    names = [flow.names[index] for index in rows]
    figure = Figure(figsize=(13.0, height_of_rows(len(names))), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    norms, ratios = (positive_log10(history.of(field, names)) for field in FIELDS)
    # A bias in front of a batch normalization has a gradient of rounding errors: it must not eat up the colors.
    limits = middle_limits(norms, margin=0.05) or (-4.0, -2.0)
    heat_map(figure, left, history.steps, norms, "viridis", limits, r"$\log_{10}\,\|g\|_2$", "both")
    left.set_title("Gradient norm", loc="left")
    label = r"$\log_{10}\,(\|\Delta w\|_2 / \|w\|_2)$, usually near $-3$"
    limits = around(-3.0, middle_limits(ratios, margin=0.0), reach=1.0)
    heat_map(figure, right, history.steps, ratios, "RdBu_r", limits, label, "both")
    right.set_title("Update-to-weight ratio", loc="left")
    for axes in (left, right):
        axes.set_xlabel("optimizer step")
        border = 0
        for role in _present(flow.roles)[:-1]:
            border += flow.roles.count(role)
            axes.axhline(border, color="white", linewidth=3.0)
    left.set_ylim(len(names), 0)
    label_rows(left, names, offset=0.5)
    right.tick_params(axis="y", length=0)
    return figure


def _limits(flow: GradientFlow, ranges: list[tuple[float, float]]) -> tuple[float, float]:
    seen = [
        (value, role)
        for role, norm, (low, high) in zip(flow.roles, flow.gradient_norms, ranges, strict=True)
        for value in (norm, low, high)
        if value > 0 and math.isfinite(value)
    ]
    if not seen:
        return 1e-3, 1.0
    leading = _present(flow.roles)[0]
    # Bars on a logarithmic axis have no natural foot: it stands below the smallest value, except that gradients made of
    # rounding errors may not press the others together; they are written out as numbers.
    least = min((value for value, role in seen if role == leading), default=0.0)
    return max(min(seen)[0] / 2.0, least / 1e3), max(seen)[0] * 2.0


def _ranges(flow: GradientFlow, history: History) -> list[tuple[float, float]]:
    table = history.of("gradient_norms", flow.names)
    finite = torch.isfinite(table)
    low = torch.where(finite, table, math.inf).amin(0)
    high = torch.where(finite, table, 0.0).amax(0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _present(roles: Sequence[str]) -> list[str]:
    return [role for role in COLORS if role in roles]
