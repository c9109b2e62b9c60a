"""The one style of all figures of a study."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import matplotlib
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from steepest.common.plotting import SERIES
from steepest.study.analysis.drawing import Drawing
from steepest.study.question.axes import numbers_of
from steepest.study.question.definition import Axis

MARKERS = "osD^vPX*"
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1.2, 1, 1.2)))
PALER = 0.55  # of a color, the rest white, each time that the palette begins again
FEWEST_ORDERED = 3
BRIGHTEST = 0.9  # of the map of numbers, from 0 to 1: yellow would be lost on white
WIDTH = 3.4  # inches: a column of two
HEIGHT = 2.5
ROW = 0.24  # inches, of an entry of a list
LETTER = 0.065
FRAME = 0.9  # around the entries: title, ticks, label

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.titlelocation": "left",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": "0.35",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    # The same results give the same file.
    "svg.hashsalt": "steepest",
}

Item = TypeVar("Item")
Kind = Callable[..., list[Drawing]]
FIGURES: dict[str, Kind] = {}


def style() -> AbstractContextManager[Any]:
    """Settings within which figures are made and written."""
    return matplotlib.rc_context(STYLE)


def figure_kind(function: Kind) -> Kind:
    """Make a function a kind of figure by its own name, drawn within the style.

    Args:
        function: Takes the study, results, the study's folder and, typed, the options that a study file may give.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> list[Drawing]:
        with style():
            return function(*args, **kwargs)

    FIGURES[function.__name__] = run
    return run


@dataclass(frozen=True)
class Look:
    """How one label is drawn, everywhere in a study."""

    color: str
    marker: str
    dashes: Any

    def line(self, **options: Any) -> dict[str, Any]:
        """Arguments of a line without markers."""
        return {"color": self.color, "linestyle": self.dashes, **options}

    def points(self, **options: Any) -> dict[str, Any]:
        """Arguments of a line with markers."""
        return {**self.line(), "marker": self.marker, "markeredgecolor": "white", "markeredgewidth": 0.4, **options}


def looks(axis: Axis) -> dict[str, Look]:
    """Color, marker and dashes of every label of an axis.

    Three numbers or more have colors in their order; names have those of the palette, and after eight of them paler
    ones with the next dashes.
    """
    labels = list(axis.alternatives)
    numbers = numbers_of(axis)
    if numbers is not None and len(labels) >= FEWEST_ORDERED:
        ranks = sorted(labels, key=lambda label: numbers[label])
        shades = {label: BRIGHTEST * place / (len(ranks) - 1) for place, label in enumerate(ranks)}
        return {
            label: Look(to_hex(colormaps["viridis"](shades[label])), MARKERS[index % len(MARKERS)], "-")
            for index, label in enumerate(labels)
        }
    return {
        label: Look(
            _paler(SERIES[index % len(SERIES)], index // len(SERIES)),
            MARKERS[index % len(MARKERS)],
            DASHES[(index % len(SERIES) + index // len(SERIES)) % len(DASHES)] if index else "-",
        )
        for index, label in enumerate(labels)
    }


def _paler(color: str, times: int) -> str:
    if not times:
        return color
    red, green, blue = (1.0 - PALER**times * (1.0 - part) for part in to_rgb(color))
    return to_hex((red, green, blue))


def panels(
    count: int, columns: int | None = None, height: float = HEIGHT, legend: float = 0.0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, each as wide as a column.

    Args:
        count: Of panels, at least 1.
        columns: Most of them side by side; by default 2 for up to four, else 3.
        height: Of a panel, inches.
        legend: Height for what stands below the panels, inches.
        options: Of `Figure.subplots`, such as sharey.

    Returns:
        The figure and its panels, row by row.
    """
    columns = columns_of(count, columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width_of(columns), height * rows + legend), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])


def lists(
    rows: Sequence[int], width: float, panels: int = 1, beside: int = 1, **options: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of lists, each as high as its entries.

    Args:
        rows: Number of entries of each list.
        width: Of a list, inches.
        panels: Panels of each list.
        beside: Lists side by side.
        options: Of `Figure.subplots`, such as sharey.

    Returns:
        The figure, and the panels of each list, row by row.
    """
    heights = [min(14.0, FRAME + ROW * max(own)) for own in _batches(rows, beside)]
    figure = Figure(figsize=(width * min(beside, len(rows)), sum(heights)), layout="constrained")
    columns = panels * min(beside, len(rows))
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights, **options)
    found = _batches(list(grid.flat), panels)
    for axes in itertools.chain(*found[len(rows) :]):
        axes.remove()
    return figure, found[: len(rows)]


def _batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    return [list(items[place : place + size]) for place in range(0, len(items), size)]


def columns_of(count: int, columns: int | None = None) -> int:
    """How many of so many panels stand side by side, at most so many, or by default 2 of up to four and else 3."""
    return min(count, columns or (2 if count <= 4 else 3))


def width_of(columns: int) -> float:
    """Width of a figure of so many panels side by side, inches."""
    # They are narrower than one alone, so that a page still holds them at their size.
    return {1: WIDTH, 2: 6.2}.get(columns, 2.75 * columns)


def legend_height(labels: Sequence[str], width: float) -> float:
    """Height in inches of a legend below a figure."""
    columns = _legend_columns(labels, width)
    return 0.08 + 0.19 * math.ceil(len(labels) / columns) if labels else 0.0


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Put a legend below a figure, in as many columns as fit."""
    if not handles:
        return
    labels = [str(handle.get_label()) for handle in handles]
    columns = _legend_columns(labels, figure.get_figwidth())
    figure.legend(handles=_by_rows(handles, columns), loc="outside lower center", ncols=columns, handlelength=2.2)


def _legend_columns(labels: Sequence[str], width: float) -> int:
    longest = max((len(label) for label in labels), default=1)
    return max(1, min(len(labels), int(width / (0.55 + 0.065 * longest))))


def _by_rows(handles: Sequence[Any], columns: int) -> list[Any]:
    # Matplotlib fills columns; readers read rows.
    return [handle for column in range(columns) for handle in handles[column::columns]]


def few_decades(axis: XAxis | YAxis, values: Sequence[float]) -> None:
    """Give a logarithmic axis plain numbers at 1, 2 and 5 if powers of ten would be too few on it."""
    shown = [value for value in values if value > 0 and math.isfinite(value)]
    if shown and max(shown) < 100 * min(shown):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(lambda value, place: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())


def is_wide_range(values: Sequence[float], factor: float = 30.0) -> bool:
    """Whether values belong on a logarithmic axis: all positive, and most of them spread over that factor."""
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite or finite[0] <= 0:
        return False
    low, high = finite[len(finite) // 50], finite[-1 - len(finite) // 50]
    return high / low > factor
