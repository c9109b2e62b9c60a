"""Figures of a loss landscape: curve, contours, surface, and a trajectory that walks through it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from steepest.common.atomic import replacing
from steepest.common.plotting import BLUE, VERMILION
from steepest.diagnostics.common.artifacts import encode_gif
from steepest.diagnostics.landscape.landscape import Surface

# Viridis stays ordered under every kind of color blindness and in gray; white and Okabe and Ito's vermilion stand out.
COLORS = "viridis"
# White on an edge of black, to be seen on yellow as well.
EDGE = [Stroke(linewidth=2.6, foreground="0.2"), Normal()]
WALK: dict[str, Any] = {"color": "white", "linewidth": 1.2, "markersize": 2.5, "path_effects": EDGE}
WIDE = 20.0  # ratio of largest to smallest loss from which a logarithmic scale shows more
LEVELS = 16
MOST_FRAMES = 48

Place = Sequence[float]
Walk = Sequence[tuple[int, Place]]


def draw(
    surface: Surface, labels: Sequence[str], title: str, note: str, path: Walk = (), points: Mapping[str, Place] = {}
) -> dict[str, Figure]:
    """All still figures of a landscape by name: "curve" of one axis, "contour" and "surface" of two.

    Args:
        surface: A finished one.
        labels: Of its axes.
        title: What it is.
        note: How it was measured, the mode of batch normalization first.
        path: Step and coordinates of the snapshots of a trajectory.
        points: Coordinates of other weights by name.
    """
    if len(surface.axes) == 1:
        return {"curve": curve(surface, labels[0], title, note, path, points)}
    return {
        "contour": contour(surface, labels, title, note, path, points),
        "surface": relief(surface, labels, title, note, path),
    }


def curve(
    surface: Surface, label: str, title: str, note: str, path: Walk = (), points: Mapping[str, Place] = {}
) -> Figure:
    """The loss along one direction; losses that are not finite are gaps."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    axis, losses = surface.axes[0], _shown(surface.losses)
    axes.plot(axis, losses, color=BLUE, linewidth=1.6, marker=".", markersize=5, label="loss")
    if _is_wide(losses):
        axes.set_yscale("log")
    axes.plot([0.0], [surface.center], "o", color=VERMILION, markersize=8, label="the weights")
    for marker, (name, place) in zip("s^Dv", points.items(), strict=False):
        axes.axvline(place[0], color="0.6", linewidth=0.8, linestyle=":")
        axes.plot(place, [numpy.interp(place[0], axis, losses)], marker, color="black", markersize=6, label=name)
    if path:
        places = [place[0] for _, place in path]
        axes.plot(places, numpy.interp(places, axis, losses), "|", color=VERMILION, label="trajectory, projected")
    axes.set_xlim(axis[0], axis[-1])
    axes.set_xlabel(label)
    axes.set_ylabel("loss")
    axes.grid(color="0.9", linewidth=0.6)
    axes.legend(frameon=False, fontsize=9)
    _title(axes, title, note)
    return figure


def contour(
    surface: Surface,
    labels: Sequence[str],
    title: str,
    note: str,
    path: Walk = (),
    points: Mapping[str, Place] = {},
) -> Figure:
    """The loss over a plane as filled contours; where it is not finite the picture is empty."""
    figure = Figure(figsize=(7.6, 5.8), layout="constrained")
    axes = figure.subplots()
    _contours(figure, axes, surface, labels)
    if path:
        walk = numpy.array([place for _, place in path])
        axes.plot(walk[:, 0], walk[:, 1], "-o", label="trajectory", **WALK)
        axes.plot(*walk[0], "s", color="white", markeredgecolor="black", markersize=7, label=f"step {path[0][0]:,}")
    for marker, (name, place) in zip("^DvP", points.items(), strict=False):
        axes.plot(*place, marker, color="white", markeredgecolor="black", markersize=8, label=name)
    axes.plot(0.0, 0.0, "o", color=VERMILION, markeredgecolor="white", markersize=9, label="the weights")
    _legend(axes)
    _title(axes, title, note)
    return figure


def relief(surface: Surface, labels: Sequence[str], title: str, note: str, path: Walk = ()) -> Figure:
    """The loss over a plane as a surface in three dimensions, its logarithm if it spans decades."""
    figure = Figure(figsize=(7.6, 6.2), layout="constrained")
    axes: Any = figure.add_subplot(projection="3d", computed_zorder=False)
    losses = _shown(surface.losses)
    wide = _is_wide(losses)
    heights = numpy.log10(losses) if wide else losses
    first, second = numpy.meshgrid(*surface.axes, indexing="ij")
    axes.plot_surface(first, second, heights, cmap=COLORS, rstride=1, cstride=1, linewidth=0, alpha=0.9, zorder=1)
    if path:
        walk = numpy.array([place for _, place in path])
        above = [_height(surface, heights, place) for place in walk]
        axes.plot(walk[:, 0], walk[:, 1], above, "-", color="black", linewidth=1.4, zorder=3)
    axes.plot([0.0], [0.0], [heights[surface.origin]], "o", color=VERMILION, markersize=7, zorder=4)
    axes.set_xlabel(_wrapped(labels[0]), fontsize=9, labelpad=10)
    axes.set_ylabel(_wrapped(labels[1]), fontsize=9, labelpad=10)
    axes.set_zlabel("log10 of the loss" if wide else "loss", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.view_init(elev=34, azim=-58)
    axes.set_box_aspect((1.0, 1.0, 0.72), zoom=1.0)
    _title(axes, title, note)
    return figure


def animation(
    path: Path, surface: Surface, labels: Sequence[str], title: str, walk: Walk, seconds: float = 6.0
) -> None:
    """Write a GIF of a trajectory that walks over the contours.

    Args:
        path: The file, replaced as a whole.
        surface: Of two axes.
        labels: Of its axes.
        title: What it is; the step is written behind.
        walk: Step and coordinates, at least one.
        seconds: How long one round takes.
    """
    every = math.ceil(len(walk) / MOST_FRAMES)
    stops = sorted({*range(0, len(walk), every), len(walk) - 1})
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.subplots()
    _contours(figure, axes, surface, labels, fontsize=8)
    places = numpy.array([place for _, place in walk])
    (line,) = axes.plot([], [], "-o", animated=True, **WALK)
    (head,) = axes.plot([], [], "o", color=VERMILION, markeredgecolor="white", markersize=9, animated=True)
    text = axes.set_title(" ", loc="left", fontsize=10)
    # The background is drawn once: a whole drawing takes a quarter of a second.
    figure.set_dpi(90)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    text.set_animated(True)
    background: Any = canvas.copy_from_bbox(figure.bbox)
    frames = []
    for stop in stops:
        line.set_data(places[: stop + 1, 0], places[: stop + 1, 1])
        head.set_data(places[stop : stop + 1, 0], places[stop : stop + 1, 1])
        text.set_text(f"{title}, step {walk[stop][0]:,}")
        canvas.restore_region(background)
        for artist in (line, head, text):
            axes.draw_artist(artist)
        frames.append(Image.fromarray(numpy.asarray(canvas.buffer_rgba())[..., :3].copy()))
    content = encode_gif(frames, _palette(frames[0]), seconds)
    with replacing(path) as partial:
        partial.write_bytes(content)


def _palette(image: Image.Image) -> Image.Image:
    """Colors for all frames, so that the background does not flicker; a small marker keeps its own."""
    larger = Image.new("RGB", (image.width, image.height * 5 // 4), VERMILION)
    larger.paste(image)
    return larger.quantize(128)


def _contours(figure: Figure, axes: Axes, surface: Surface, labels: Sequence[str], fontsize: int = 9) -> None:
    losses = numpy.ma.masked_invalid(_shown(surface.losses)).T
    low, high = float(losses.min()), float(losses.max())
    if high <= low:  # a constant has no contours
        high = low + max(abs(low), 1.0) * 1e-6
    wide = _is_wide(losses)
    levels = numpy.geomspace(low, high, LEVELS + 1) if wide else numpy.linspace(low, high, LEVELS + 1)
    scale = LogNorm(low, high) if wide else Normalize(low, high)
    filled = axes.contourf(*surface.axes, losses, levels=levels, cmap=COLORS, norm=scale)
    axes.contour(*surface.axes, losses, levels=levels, colors="black", linewidths=0.4, alpha=0.5)
    locator = LogLocator(subs=(1.0, 2.0, 5.0)) if wide else MaxNLocator(7)
    digits = 3 if wide else _digits(locator.tick_values(low, high))
    bar = figure.colorbar(filled, ax=axes, ticks=locator, format=f"%.{digits}g")
    bar.set_label("loss", fontsize=fontsize)
    bar.ax.minorticks_off()
    axes.set_xlabel(labels[0], fontsize=fontsize)
    axes.set_ylabel(labels[1], fontsize=fontsize)
    axes.set_xlim(surface.axes[0][0], surface.axes[0][-1])
    axes.set_ylim(surface.axes[1][0], surface.axes[1][-1])


def _digits(ticks: Sequence[float]) -> int:
    """Significant digits with which the ticks are told apart, at least 3."""
    for digits in range(3, 12):
        if len({f"{tick:.{digits}g}" for tick in ticks}) == len(ticks):
            return digits
    return 12


def _legend(axes: Axes) -> None:
    legend = axes.legend(fontsize=8, facecolor="0.25", framealpha=0.75, edgecolor="none", labelcolor="white")
    legend.set_zorder(5)


def _title(axes: Any, title: str, note: str) -> None:
    axes.set_title(f"{title}\n", loc="left", fontsize=11)
    write = axes.text2D if axes.name == "3d" else axes.text
    # Out of the layout, which would make room for a long note beside the picture.
    write(0.0, 1.015, note, transform=axes.transAxes, fontsize=8, color="0.35").set_in_layout(False)


def _shown(losses: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    return numpy.where(numpy.isfinite(losses), losses, math.nan)


def _is_wide(losses: NDArray[numpy.float64]) -> bool:
    finite = numpy.ma.masked_invalid(losses).compressed()
    return finite.size > 0 and float(finite.min()) > 0 and float(finite.max() / finite.min()) > WIDE


def _height(surface: Surface, heights: NDArray[numpy.float64], place: Place) -> float:
    """The surface above a place, linear between the four points around it."""
    corners = heights
    for axis, value in zip(surface.axes, place, strict=True):
        below = int(numpy.clip(numpy.searchsorted(axis, value) - 1, 0, len(axis) - 2))
        share = float(numpy.clip((value - axis[below]) / (axis[below + 1] - axis[below]), 0.0, 1.0))
        corners = (1.0 - share) * corners[below] + share * corners[below + 1]
    return float(corners)


def _wrapped(label: str) -> str:
    return label.replace(" (", "\n(")
