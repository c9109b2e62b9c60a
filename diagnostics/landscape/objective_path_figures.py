"""The figure of a path over a surface."""

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from steepest.common.plotting import BLUE, GREEN, VERMILION, light_grid
from steepest.diagnostics.landscape.objective_path import Surface

GRID = 240
LEVELS = 18
MARKED = 150  # more points than this would hide the line


def trajectory(table: dict[str, NDArray[Any]], surface: Surface, name: str) -> Figure:
    """Gap and distance to the minimum over the steps, and in two dimensions the path on the contours of the gap.

    Args:
        table: From `ObjectivePath.table`.
        surface: What the path is on.
        name: Of the function, for the title.
    """
    if surface.limits is None:
        figure = Figure(figsize=(7.5, 5.2), layout="constrained")
        gap, distance = figure.subplots(2, 1, sharex=True)
    else:
        figure = Figure(figsize=(12.0, 5.4), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1.0))
        gap = figure.add_subplot(grid[0, 1])
        distance = figure.add_subplot(grid[1, 1], sharex=gap)
        _path(figure, figure.add_subplot(grid[:, 0]), table, surface, name)
    _over_steps(gap, table, "gaps", "loss above its minimum", BLUE)
    _over_steps(distance, table, "distances", "distance to\nthe nearest minimum", GREEN)
    gap.set_title(f"{name}: loss and weights over the run", loc="left", fontsize=10)
    distance.set_xlabel("optimizer step")
    return figure


def _over_steps(axes: Axes, table: dict[str, NDArray[Any]], key: str, label: str, color: str) -> None:
    # Arrived to the last digit, the loss can be below the rounded minimum: a gap on a logarithmic axis.
    values = numpy.where(numpy.isfinite(table[key]) & (table[key] > 0), table[key], numpy.nan)
    axes.plot(table["steps"], values, color=color, linewidth=1.3)
    if numpy.isfinite(values).any():
        axes.set_yscale("log")
    axes.set_ylabel(label)
    light_grid(axes)


def _path(figure: Figure, axes: Axes, table: dict[str, NDArray[Any]], surface: Surface, name: str) -> None:
    points = table["weights"]
    seen = points[numpy.isfinite(points).all(1)]
    draw_surface(figure, axes, surface, [seen])
    marker = "." if len(seen) <= MARKED else ""
    axes.plot(seen[:, 0], seen[:, 1], color=VERMILION, linewidth=1.2, marker=marker, markersize=4, label="path")
    minima = table["minima"]
    axes.plot(minima[:, 0], minima[:, 1], "*", color=BLUE, mec="white", markersize=13, linestyle="", label="minimum")
    axes.plot(seen[0, 0], seen[0, 1], "o", color="white", mec="black", markersize=7, linestyle="", label="start")
    axes.plot(seen[-1, 0], seen[-1, 1], "s", color=VERMILION, mec="black", markersize=7, linestyle="", label="end")
    axes.set_xlabel("first weight")
    axes.set_ylabel("second weight")
    axes.set_title(f"{name}: {int(table['steps'][-1]):,} steps", loc="left", fontsize=10)
    axes.legend(loc="best", fontsize=9, framealpha=0.9)


def draw_surface(figure: Figure, axes: Axes, surface: Surface, paths: Sequence[NDArray[Any]]) -> None:
    """Contours of the gap to the minimum, over a range that shows the paths.

    Args:
        figure: Gets the color bar.
        axes: Gets contours and limits.
        surface: With limits, in two dimensions.
        paths: Points of shape (count, 2), all finite.
    """
    assert surface.limits is not None
    seen = numpy.concatenate(list(paths))
    ranges = [_range(seen[:, axis], *surface.limits[axis]) for axis in (0, 1)]
    x, y = (torch.linspace(low, high, GRID, dtype=torch.float64) for low, high in ranges)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    with torch.no_grad():
        gaps = (surface.value(places.to(surface.minima.device)).cpu() - surface.minimum_value).numpy()
    low = max(float(numpy.quantile(gaps, 0.002)), 1e-12)
    high = max(float(gaps.max()), 2 * low)
    levels = numpy.geomspace(low, high, LEVELS)
    filled = axes.contourf(x, y, gaps.clip(low), levels=levels, norm=LogNorm(low, high), cmap="Greys_r", alpha=0.75)
    axes.contour(x, y, gaps.clip(low), levels=levels, colors="white", linewidths=0.4)
    ticks = [10.0**k for k in range(-12, 13) if low <= 10.0**k <= high]
    bar = figure.colorbar(
        filled, ax=axes, label="loss above its minimum", ticks=ticks[:: 1 + len(ticks) // 8], pad=0.02
    )
    bar.minorticks_off()
    axes.set_xlim(*ranges[0])
    axes.set_ylim(*ranges[1])


def _range(values: NDArray[Any], low: float, high: float) -> tuple[float, float]:
    # A path that leaves is followed, but not further than the surface stays in sight.
    reach = high - low
    return max(min(low, float(values.min()) - 0.03 * reach), low - reach), min(
        max(high, float(values.max()) + 0.03 * reach), high + reach
    )
