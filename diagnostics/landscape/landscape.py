"""The loss on a grid of points around given weights: evaluated by all ranks, kept in a file, continued after a kill."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from steepest.common.atomic import replacing
from steepest.diagnostics.common.guards import values_restored
from steepest.diagnostics.landscape.directions import Plane, Weights

SAVE_INTERVAL = 2.0  # seconds of work that a kill may cost
Loss = Callable[[], Tensor]


@dataclass(frozen=True)
class Ranks:
    """How processes share a grid; the default is a single one.

    Attributes:
        rank: Of this process.
        size: How many there are.
        total: Sum of a tensor over all ranks.
        first: Rank zero's value of its argument.
    """

    rank: int = 0
    size: int = 1
    total: Callable[[Tensor], Tensor] = lambda values: values
    first: Callable[[Any], Any] = lambda value: value


@dataclass
class Surface:
    """A loss over one or two axes.

    Attributes:
        axes: Coordinates along each axis, ascending, float64; 0 is among them.
        losses: Of shape (points of axis 1[, points of axis 2]), float64; NaN where not done, or where the loss is NaN.
        done: Which points were evaluated, same shape.
        fingerprint: Of weights, directions, axes and data; a file of another one is not continued.
    """

    axes: tuple[NDArray[numpy.float64], ...]
    losses: NDArray[numpy.float64]
    done: NDArray[numpy.bool_]
    fingerprint: str

    @property
    def center(self) -> float:
        """The loss at the origin."""
        return float(self.losses[self.origin])

    @property
    def origin(self) -> tuple[int, ...]:
        """Index of the origin."""
        return tuple(int(numpy.flatnonzero(axis == 0.0)[0]) for axis in self.axes)


def empty_surface(axes: Sequence[NDArray[numpy.float64]], fingerprint: str) -> Surface:
    """A surface of which nothing is evaluated yet."""
    shape = tuple(len(axis) for axis in axes)
    return Surface(tuple(axes), numpy.full(shape, math.nan), numpy.zeros(shape, dtype=bool), fingerprint)


def grid_axis(low: float, high: float, resolution: int) -> NDArray[numpy.float64]:
    """Evenly spaced coordinates from about `low` to about `high`, exactly 0 among them.

    Args:
        low: At most 0.
        high: At least 0, above `low`.
        resolution: Number of points, at least 3.

    Raises:
        ValueError: if a number is out of range.
    """
    if resolution < 3:
        raise ValueError(f"resolution must be at least 3 points along an axis, got {resolution}")
    if not -math.inf < low <= 0.0 <= high < math.inf or low == high:
        raise ValueError(f"an axis must reach from at most 0 to at least 0, got {low} to {high}")
    # Multiples of a step; as many of them below zero as make the step smallest.
    places = range(resolution)
    steps = [max(_step(-low, below), _step(high, resolution - 1 - below)) for below in places]
    below = min(places, key=lambda count: (steps[count], abs(count - (resolution - 1) / 2)))
    return steps[below] * numpy.arange(-below, resolution - below, dtype=numpy.float64)


def _step(distance: float, count: int) -> float:
    return distance / count if count else (math.inf if distance else 0.0)


def fill(
    surface: Surface,
    loss: Loss,
    tensors: Weights,
    plane: Plane,
    *,
    ranks: Ranks | None = None,
    save: Callable[[Surface], None] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Evaluate the points of a surface that are not done, in place; the tensors get their values back in any case.

    At each point the tensors are their present values plus multiples of the directions; at the origin they are not
    touched, so that its loss is that of a direct evaluation to the bit. Every rank takes every so many points; results
    come together, and `save` is called, every few seconds. One rank that fails ends all.

    Args:
        surface: From `empty_surface` or `load_surface`, the same on all ranks.
        loss: Computes the loss, a scalar, at the tensors' values; deterministic, the same on all ranks.
        tensors: Parameters, or parameters and buffers, that are moved.
        plane: As many directions as the surface has axes.
        ranks: Those who share the work; None for this process alone.
        save: Called on rank zero with what is done so far.
        progress: Called on rank zero with the points done, all points, and the seconds that this call has taken.

    Raises:
        FloatingPointError: if the loss at the origin is not finite.
        RuntimeError: if another rank failed.
    """
    ranks = Ranks() if ranks is None else ranks
    start, width = time.perf_counter(), 1
    todo = [index for index in _from_origin(surface) if not surface.done[index]]
    with torch.no_grad(), values_restored(tensors) as center:
        while todo:
            batch, todo = todo[: width * ranks.size], todo[width * ranks.size :]
            began = time.perf_counter()
            losses = _evaluate(batch, surface, loss, tensors, center, plane, ranks)
            for index, value in zip(batch, losses, strict=True):
                surface.losses[index], surface.done[index] = value, True
            if not math.isfinite(surface.center):
                raise FloatingPointError(f"the loss at the weights themselves is {surface.center}, not a finite number")
            error: Exception | None = None
            try:
                if ranks.rank == 0 and save is not None:
                    save(surface)
                if ranks.rank == 0 and progress is not None:
                    progress(int(surface.done.sum()), surface.done.size, time.perf_counter() - start)
            except Exception as caught:  # a full disk, say: the others must not wait for this rank
                error = caught
            seconds = (time.perf_counter() - began) / width
            # Clocks differ between ranks, and they must stop for each other at the same points.
            wider = max(1, min(round(SAVE_INTERVAL / seconds), 4 * width))
            width, failed = ranks.first((wider, error is not None))
            if error is not None:
                raise error
            if failed:
                raise RuntimeError("the landscape could not be written on rank zero")


def _evaluate(
    batch: Sequence[tuple[int, ...]],
    surface: Surface,
    loss: Loss,
    tensors: Weights,
    center: Weights,
    plane: Plane,
    ranks: Ranks,
) -> list[float]:
    own: list[Tensor] = []
    error: BaseException | None = None
    try:
        for index in batch[ranks.rank :: ranks.size]:
            place = [float(axis[position]) for axis, position in zip(surface.axes, index, strict=True)]
            move(tensors, center, plane, place)
            own.append(loss().detach())
        values = torch.stack(own).cpu().double() if own else torch.zeros(0, dtype=torch.float64)
    except Exception as caught:
        error, values = caught, torch.zeros(0, dtype=torch.float64)
    if ranks.size == 1 and error is None:
        return values.tolist()
    # The last entry counts ranks that failed: they take part nevertheless, so that none is left waiting.
    shared = torch.zeros(len(batch) + 1, dtype=torch.float64)
    if error is None:
        shared[:-1][ranks.rank :: ranks.size] = values
    shared[-1] = float(error is not None)
    # Zeros added to a loss leave its bits; a NaN of one rank stays at its place.
    shared = ranks.total(shared) if ranks.size > 1 else shared
    if error is not None:
        raise error
    if float(shared[-1]) > 0:
        raise RuntimeError("the loss could not be evaluated on another rank")
    return shared[:-1].tolist()


def move(tensors: Weights, center: Weights, plane: Plane, place: Sequence[float]) -> None:
    """Set the tensors, in place, to centre plus coordinates times directions."""
    torch._foreach_copy_(list(tensors), list(center))
    for coordinate, direction in zip(place, plane.directions, strict=True):
        if coordinate != 0.0:
            torch._foreach_add_(list(tensors), direction, alpha=coordinate)


def _from_origin(surface: Surface) -> list[tuple[int, ...]]:
    """All points, the origin first: a loss that fails there fails everywhere."""
    origin = surface.origin
    return [origin, *(index for index in numpy.ndindex(surface.losses.shape) if index != origin)]


# --- files ------------------------------------------------------------------------------------------------------------


def fingerprint(parts: Iterable[Any]) -> str:
    """A digest of tensors, arrays and plain values, nested in lists, tuples and mappings: equal only if all are."""
    digest = hashlib.sha256()
    _feed(digest, list(parts))
    return digest.hexdigest()


def _feed(digest: Any, part: Any) -> None:
    if isinstance(part, Tensor):
        part = part.detach().cpu()
        digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
        digest.update(part.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(part, numpy.ndarray):
        digest.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
    elif isinstance(part, dict):
        _feed(digest, list(part.items()))
    elif isinstance(part, (list, tuple)):
        digest.update(f"[{len(part)}]".encode())
        for item in part:
            _feed(digest, item)
    else:
        digest.update(repr(part).encode())


def save_surface(surface: Surface, path: Path) -> None:
    """Write a surface to an NPZ file: `axis_1`, `axis_2`, `losses`, `done`, `fingerprint`."""
    content = {f"axis_{index}": axis for index, axis in enumerate(surface.axes, 1)}
    content |= {"losses": surface.losses, "done": surface.done, "fingerprint": numpy.array(surface.fingerprint)}
    with replacing(path) as partial:
        numpy.savez(partial, allow_pickle=False, **content)


def load_surface(path: Path) -> Surface:
    """Read what `save_surface` wrote, finished or not.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no loss landscape at {path}")
    try:
        with path.open("rb") as file, numpy.load(file, allow_pickle=False) as content:
            axes = tuple(content[name].astype(numpy.float64) for name in ("axis_1", "axis_2") if name in content)
            losses, done = content["losses"].astype(numpy.float64), content["done"].astype(bool)
            surface = Surface(axes, losses, done, str(content["fingerprint"]))
        if losses.shape != tuple(map(len, axes)) or done.shape != losses.shape or not surface.origin:
            raise KeyError("the sizes of its arrays do not fit")
    except Exception as error:  # numpy raises a dozen kinds for files that are not NPZ or were cut off
        raise ValueError(f"{path} is not a loss landscape or is damaged ({error}): delete it to start anew") from error
    return surface
