"""Numbers read back from figures."""

import math
from typing import Any

import numpy
from matplotlib.axes import Axes


def curve(line: Any) -> list[tuple[float, float]]:
    """The points of a line."""
    return [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def band(collection: Any, x: float) -> tuple[float, float]:
    """The ends of a filled band at x."""
    ends = [y for path in collection.get_paths() for at, y in path.vertices if at == x]
    return min(ends), max(ends)


def segments(axes: Axes) -> list[tuple[float, float, float]]:
    """Height and both ends of every horizontal line drawn by `hlines`, from the top."""
    found = []
    for collection in axes.collections:
        for segment in getattr(collection, "get_segments", list)():
            if len(segment) == 2:
                found.append((float(segment[0][1]), float(segment[0][0]), float(segment[1][0])))
    return found


def dots(collection: Any) -> list[tuple[float, float]]:
    """The points of a scatter."""
    return [(float(x), float(y)) for x, y in collection.get_offsets()]


def shades(axes: Axes) -> numpy.ndarray:
    """The values of a heat map by row and column; NaN where it is gray."""
    (mesh,) = axes.collections
    rows, columns = mesh._coordinates.shape[0] - 1, mesh._coordinates.shape[1] - 1  # type: ignore[attr-defined]
    return numpy.ma.filled(numpy.ma.asarray(mesh.get_array(), dtype=float), math.nan).reshape(rows, columns)


def edges(axes: Axes) -> list[float]:
    """Where the columns of a heat map end."""
    (mesh,) = axes.collections
    return mesh._coordinates[0, :, 0].tolist()  # type: ignore[attr-defined]
