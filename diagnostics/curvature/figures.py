"""Figures of sharpness and of the spectrum of the curvature."""

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steepest.common.history import History
from steepest.common.plotting import BLUE, GREEN, ORANGE, VERMILION, light_grid
from steepest.diagnostics.curvature.lanczos import Density
from steepest.diagnostics.curvature.sharpness import eigenvalues_of

GRID = 800


def sharpness_over_time(history: History, matrix: str = "Hessian") -> Figure:
    """Sharpness with its threshold, and the ratios to the edge of stability, over the optimizer steps.

    Args:
        history: All measurements.
        matrix: What the eigenvalues are of, for labels.

    Returns:
        A figure of two panels, three where the optimizer preconditions: then sharpness and what is compared with the
        threshold are different numbers. Values that were not measured, or not positive on a logarithmic axis, are gaps.
    """
    steps, raw = history.steps, eigenvalues_of(history)
    seen = history["preconditioned"].tolist()
    same = all(math.isnan(a) or math.isclose(a, float(b), rel_tol=1e-3) for a, b in zip(seen, raw[:, 0], strict=True))
    has_threshold = any(map(math.isfinite, history["threshold"].tolist()))
    apart = has_threshold and not same
    figure = Figure(figsize=(8.0, 7.6 if apart else 5.8), layout="constrained")
    panels = list(figure.subplots(3 if apart else 2, 1, sharex=True, height_ratios=[2, 2, 1.4] if apart else [2, 1.4]))
    top, bottom = panels[0], panels[-1]
    for index in range(raw.shape[1] - 1, 0, -1):
        _line(top, steps, raw[:, index].tolist(), "0.45", "the next ones" if index == 1 else None, width=0.9)
    _line(top, steps, raw[:, 0].tolist(), BLUE, f"largest eigenvalue of the {matrix}")
    top.set_ylabel("curvature")
    top.set_title("Sharpness", loc="left")
    compared = panels[1] if apart else top
    if apart:
        _line(compared, steps, seen, GREEN, "largest eigenvalue, preconditioned as by the optimizer")
        compared.set_ylabel("preconditioned curvature")
    if has_threshold:
        _line(compared, steps, history["threshold"].tolist(), VERMILION, "stability threshold", style="--", marker="")
    for axes in panels[:-1]:
        axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=9)
    _ratios(bottom, history)
    bottom.set_xlabel("optimizer step")
    for axes in panels:
        light_grid(axes)
    return figure


def spectrum(density: Density, step: int, eigenvalues: Sequence[float] = (), matrix: str = "Hessian") -> Figure:
    """The density of all eigenvalues, each point of the quadrature widened to a bell.

    Args:
        density: From `spectral_density`.
        step: When it was measured.
        eigenvalues: The largest ones, marked on the axis.
        matrix: What they are of, for labels.
    """
    nodes = torch.tensor(density.nodes, dtype=torch.float64)
    weights = torch.tensor(density.weights, dtype=torch.float64)
    ends = torch.cat([nodes, torch.tensor(list(eigenvalues), dtype=torch.float64)])
    low, high = float(ends.min()), float(ends.max())
    reach = (high - low) or max(1.0, abs(high))
    width = 0.008 * reach
    grid = torch.linspace(low - 0.05 * reach, high + 0.05 * reach, GRID, dtype=torch.float64)
    bells = torch.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2) / (width * math.sqrt(2 * math.pi))
    values = bells @ weights
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(grid.tolist(), values.clamp(min=1e-12).tolist(), 1e-12, color=BLUE, alpha=0.35, linewidth=0)
    axes.plot(grid.tolist(), values.clamp(min=1e-12).tolist(), color=BLUE, linewidth=1.2)
    axes.set_yscale("log")
    top = float(values.max())
    axes.set_ylim(top * 1e-8, top * 4)
    for index, value in enumerate(eigenvalues):
        axes.axvline(value, color=VERMILION, linewidth=1.0, label="largest eigenvalues" if index == 0 else None)
    if eigenvalues:
        axes.legend(frameon=False, fontsize=9)
    axes.axvline(0.0, color="0.6", linewidth=0.6, linestyle=":")
    axes.set_xlabel(f"eigenvalue of the {matrix}")
    axes.set_ylabel("density (share of eigenvalues\nper unit of curvature)")
    axes.set_title(f"Spectrum of the {matrix} at step {step:,}", loc="left")
    return figure


def _ratios(axes: Axes, history: History) -> None:
    axes.axhline(1.0, color=VERMILION, linestyle="--", linewidth=1.2)
    _line(axes, history.steps, history["ratio"].tolist(), GREEN, "sharpness / threshold")
    _line(axes, history.steps, history["directional_ratio"].tolist(), ORANGE, "along the update: $-u^THu\\,/\\,2g^Tu$")
    ratios = torch.cat([history["ratio"], history["directional_ratio"]])
    finite = ratios[ratios.isfinite()].tolist()
    # A step along which the slope is nearly zero may have any ratio: it must not press the others together.
    axes.set_ylim(min(0.0, max(-0.5, min(finite, default=0.0))) - 0.02, min(3.0, max([1.3, *finite]) * 1.05))
    axes.set_ylabel("ratio to the edge\nof stability")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


def _line(
    axes: Axes,
    steps: Sequence[int],
    values: Sequence[float],
    color: str,
    label: str | None,
    width: float = 1.5,
    style: str = "-",
    marker: str = ".",
) -> None:
    shown = [value if math.isfinite(value) else math.nan for value in values]
    if any(map(math.isfinite, shown)):
        marker = marker if len(steps) <= 60 else ""
        axes.plot(steps, shown, style, color=color, label=label, linewidth=width, marker=marker, markersize=5)
