"""Colors with one name each, and the parts that figures share.

The colors are Okabe and Ito's, which stay apart under every kind of color blindness; gray stands for their yellow,
which a thin line on white would lose.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#000000", "#808080")  # of lines, in this order

DOTS_PER_INCH = 150  # of written images
MOST_TICKS = 70


def light_grid(axes: Axes) -> None:
    """Draw a thin grid behind everything."""
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def height_of_rows(rows: int) -> float:
    """Height of a figure, in inches, with so many labelled rows."""
    return min(14.0, max(3.2, 1.6 + 0.2 * rows))


def label_rows(axes: Axes, names: list[str], offset: float) -> None:
    """Write names beside rows, every few of them where they would overlap."""
    every = math.ceil(len(names) / MOST_TICKS)
    shown = range(0, len(names), every)
    axes.set_yticks([index + offset for index in shown], [names[index] for index in shown])
    axes.tick_params(axis="y", labelsize=9 if len(names) <= 25 else 7, length=2)


def dots_with_range(
    axes: Axes, last: Sequence[float], table: Tensor, color: str, label: str, marker: str = "o"
) -> list[int]:
    """A dot for the last positive number of each row and a line for its range over the run; for logarithmic axes.

    Args:
        axes: Where to draw.
        last: One number for each row.
        table: All of them, shape (steps, rows).
        color: Of both.
        label: Of the dots.
        marker: Their form.

    Returns:
        The rows that have a dot.
    """
    rows = [row for row, value in enumerate(last) if value > 0 and math.isfinite(value)]
    known = torch.isfinite(table) & (table > 0)
    low = torch.where(known, table, math.inf).amin(0).tolist()
    high = torch.where(known, table, 0.0).amax(0).tolist()
    axes.hlines(rows, [low[row] for row in rows], [high[row] for row in rows], color=color, linewidth=3.0, alpha=0.35)
    axes.scatter([last[row] for row in rows], rows, color=color, marker=marker, s=26, zorder=3, label=label)
    return rows


def positive_log10(table: Tensor) -> Tensor:
    """The logarithm, NaN where a number is not positive or not finite."""
    return torch.where(torch.isfinite(table) & (table > 0), table, torch.nan).log10()


def heat_map(
    figure: Figure,
    axes: Axes,
    steps: Sequence[int],
    table: Tensor,
    colors: str,
    limits: tuple[float, float],
    label: str,
    extend: str | None = None,
) -> None:
    """Rows over steps in colors, with their bar; NaN is gray.

    Args:
        figure: Has the axes.
        axes: Where to draw.
        steps: Of the columns.
        table: Shape (steps, rows).
        colors: Name of a color map.
        limits: Numbers at its ends.
        label: Of the bar.
        extend: Whether the bar shows that there are numbers beyond its ends: "both".
    """
    gaps = [after - before for before, after in pairwise(steps)] or [1]
    middles = [(before + after) / 2 for before, after in pairwise(steps)]
    mesh = axes.pcolormesh(
        [steps[0] - gaps[0] / 2, *middles, steps[-1] + gaps[-1] / 2],
        range(table.shape[1] + 1),
        table.T.numpy(),
        cmap=colormaps[colors].with_extremes(bad="0.75"),
        vmin=limits[0],
        vmax=limits[1],
        rasterized=True,
    )
    axes.set_facecolor("0.75")
    figure.colorbar(mesh, ax=axes, label=label, extend=extend, aspect=40, pad=0.02)


def middle_limits(values: Tensor, margin: float) -> tuple[float, float] | None:
    """Limits of colors that a few strange values do not eat up; None if no value is finite."""
    finite = values[torch.isfinite(values)]
    if finite.numel() == 0:
        return None
    low, high = torch.quantile(finite[:: 1 + finite.numel() // 1_000_000], torch.tensor([0.02, 0.98])).tolist()
    return low - margin, high + margin


def around(center: float, limits: tuple[float, float] | None, reach: float) -> tuple[float, float]:
    """Limits with a center in the middle that reach as far as others do, and at least so far."""
    reach = reach if limits is None else max(reach, limits[1] - center, center - limits[0])
    return center - reach, center + reach
