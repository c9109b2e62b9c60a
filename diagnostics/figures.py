"""Figures of the gradient flow."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from diagnostics.flow_history import FlowHistory
from diagnostics.gradient_flow import GradientFlow

# Okabe and Ito's palette, which stays apart under every kind of color blindness.
COLORS = {"weight": "#0072B2", "scale": "#009E73", "bias": "#E69F00"}
LABELS = {"weight": "weights", "scale": "normalization scales", "bias": "biases"}
MOST_TICKS = 70


def gradient_norms(flow: GradientFlow, history: FlowHistory) -> Figure:
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


def heat_maps(flow: GradientFlow, history: FlowHistory) -> Figure:
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
    _heat_map(figure, left, history.steps, history.gradient_norms[:, rows], "viridis", None)
    left.set_title("Gradient norm", loc="left")
    _heat_map(figure, right, history.steps, history.update_ratios[:, rows], "RdBu_r", -3.0)
    right.set_title("Update-to-weight ratio", loc="left")
    for axes in (left, right):
        border = 0
        for role in _present(flow.roles)[:-1]:
            border += flow.roles.count(role)
            axes.axhline(border, color="white", linewidth=3.0)
    left.set_ylim(len(names), 0)
    label_rows(left, names, offset=0.5)
    right.tick_params(axis="y", length=0)
    return figure


def _heat_map(
    figure: Figure, axes: Axes, steps: Sequence[int], table: Tensor, colors: str, center: float | None
) -> None:
    logs = torch.where(torch.isfinite(table) & (table > 0), table, torch.nan).log10()
    low, high = _color_limits(logs, center)
    mesh = axes.pcolormesh(
        step_edges(steps),
        range(table.shape[1] + 1),
        logs.T.numpy(),
        cmap=colormaps[colors].with_extremes(bad="0.75"),
        vmin=low,
        vmax=high,
        rasterized=True,
    )
    axes.set_facecolor("0.75")
    axes.set_xlabel("optimizer step")
    label = r"$\log_{10}\,\|g\|_2$" if center is None else r"$\log_{10}\,(\|\Delta w\|_2 / \|w\|_2)$, usually near $-3$"
    figure.colorbar(mesh, ax=axes, label=label, extend="both", aspect=40, pad=0.02)


def _color_limits(logs: Tensor, center: float | None) -> tuple[float, float]:
    finite = logs[torch.isfinite(logs)]
    if finite.numel() == 0:
        return -4.0, -2.0
    # A bias in front of a batch normalization has a gradient of rounding errors: it must not eat up the colors.
    low, high = torch.quantile(finite[:: 1 + finite.numel() // 1_000_000], torch.tensor([0.02, 0.98])).tolist()
    if center is not None:
        reach = max(1.0, high - center, center - low)
        return center - reach, center + reach
    return low - 0.05, high + 0.05


def step_edges(steps: Sequence[int]) -> list[float]:
    """Edges of the columns of a heat map over steps: one more than steps, halfway between neighbours."""
    gaps = [after - before for before, after in pairwise(steps)] or [1]
    middles = [(before + after) / 2 for before, after in pairwise(steps)]
    return [steps[0] - gaps[0] / 2, *middles, steps[-1] + gaps[-1] / 2]


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


def _ranges(flow: GradientFlow, history: FlowHistory) -> list[tuple[float, float]]:
    table = history.gradient_norms[:, : len(flow.names)]
    finite = torch.isfinite(table)
    low = torch.where(finite, table, math.inf).amin(0)
    high = torch.where(finite, table, 0.0).amax(0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _present(roles: Sequence[str]) -> list[str]:
    return [role for role in COLORS if role in roles]


def height_of_rows(rows: int) -> float:
    """Height of a figure, in inches, with so many labelled rows."""
    return min(14.0, max(3.2, 1.6 + 0.2 * rows))


def label_rows(axes: Axes, names: list[str], offset: float) -> None:
    """Write names beside rows, every few of them where they would overlap."""
    every = math.ceil(len(names) / MOST_TICKS)
    shown = range(0, len(names), every)
    axes.set_yticks([index + offset for index in shown], [names[index] for index in shown])
    axes.tick_params(axis="y", labelsize=9 if len(names) <= 25 else 7, length=2)
