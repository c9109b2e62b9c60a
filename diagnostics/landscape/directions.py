"""Directions in weight space along which a loss is looked at: random, principal, between weights, of curvature."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from steepest.diagnostics.curvature.lanczos import largest_eigenvalues
from steepest.diagnostics.curvature.operator import Curvature

Weights = Sequence[Tensor]
Normalization = Literal["filter", "layer", "global"]
NORMALIZATIONS = ("filter", "layer", "global")
CHUNK = 100_000  # entries of every snapshot in memory at a time
FLAT = 1e-12  # share of the variance below which a principal direction is rounding errors


@dataclass(frozen=True)
class Plane:
    """One or two directions through the weights around which a loss is looked at.

    Attributes:
        directions: Each a list of tensors shaped like the weights; moving by 1 adds it once.
        labels: Of the axes.
        cosine: Between the two directions as they are used; None for one direction.
        explained: Share of a trajectory's variance along each direction (trajectories only).
        eigenvalues: Of the Hessian along each direction (eigenvectors only).
    """

    directions: tuple[list[Tensor], ...]
    labels: tuple[str, ...]
    cosine: float | None = None
    explained: tuple[float, ...] = ()
    eigenvalues: tuple[float, ...] = ()


def normalized(direction: Weights, weights: Weights, normalization: Normalization) -> list[Tensor]:
    """Scale a direction to the weights.

    Args:
        direction: Tensors shaped like the weights.
        weights: Where the loss is looked at.
        normalization: "filter" gives every output filter or row of a matrix the norm of the weights' (arXiv
            1712.09913), "layer" every parameter as a whole; both leave parameters of fewer than two dimensions (biases,
            normalization scales) where they are. "global" makes the whole direction a unit vector.

    Raises:
        ValueError: if there is no such normalization.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    if normalization == "global":
        norm = math.sqrt(inner_product(direction, direction))
        return [part / norm for part in direction]
    return [
        torch.zeros_like(own)
        if own.ndim < 2
        else _scaled(part.flatten(1), own.flatten(1)).view_as(own)
        if normalization == "filter"
        else _scaled(part.reshape(1, -1), own.reshape(1, -1)).view_as(own)
        for part, own in zip(direction, weights, strict=True)
    ]


def _scaled(rows: Tensor, like: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # A row without length stays without: there is nothing to scale.
    return rows * (torch.linalg.vector_norm(like, dim=1, keepdim=True) / norms.where(norms > 0, 1.0))


def random_plane(weights: Weights, count: int, normalization: Normalization, generator: torch.Generator) -> Plane:
    """Gaussian directions, orthogonal as drawn, then normalized, which leaves them nearly so: `cosine` says how nearly.

    Args:
        weights: Where the loss is looked at.
        count: 1 or 2 directions.
        normalization: See `normalized`.
        generator: On the CPU, whatever the weights are on: a seed gives the same directions everywhere.

    Raises:
        ValueError: if there is no such normalization.
    """
    drawn = [
        [torch.randn(own.shape, generator=generator, dtype=own.dtype).to(own.device) for own in weights]
        for _ in range(count)
    ]
    directions = [drawn[0], *(_orthogonal(other, drawn[0]) for other in drawn[1:])]
    directions = [normalized(direction, weights, normalization) for direction in directions]
    name = {"filter": "filter-normalized", "layer": "layer-normalized", "global": "unit norm"}[normalization]
    labels = tuple(f"random direction {index} ({name})" for index in range(1, count + 1))
    return Plane(tuple(directions), labels, _cosine(directions))


def plane_through(center: Weights, others: Sequence[Weights], names: Sequence[str]) -> Plane:
    """From the centre to other weights: the line through two points of weight space, or the plane through three.

    The first direction ends at the first other weights (coordinate 1). The second is the part of the way to the other
    ones at right angles to the first, made as long as the first, so that both axes have the same scale.

    Args:
        center: Weights at the origin.
        others: One or two other weights.
        names: What to call centre and others on the axes.

    Raises:
        ValueError: if weights coincide, or the three lie on a line.
    """
    first = _difference(others[0], center)
    length = math.sqrt(inner_product(first, first))
    if length == 0.0:
        raise ValueError(f"{names[0]} and {names[1]} hold the same weights, so there is no line between them")
    if len(others) == 1:
        return Plane((first,), (f"way from {names[0]} (0) to {names[1]} (1)",))
    way = _difference(others[1], center)
    second = _orthogonal(way, first)
    rest = math.sqrt(inner_product(second, second))
    if rest <= 1e-6 * math.sqrt(inner_product(way, way)):
        raise ValueError(f"{names[2]} lies on the line through {names[0]} and {names[1]}: they span no plane")
    second = [part * (length / rest) for part in second]
    labels = (f"way from {names[0]} (0) to {names[1]} (1)", f"way to {names[2]}, at right angles")
    return Plane((first, second), labels, _cosine([first, second]))


def principal_plane(snapshots: Sequence[Weights], center: Weights, count: int = 2) -> Plane:
    """The directions in which a trajectory spreads most around its end: unit vectors, largest first.

    They come from the matrix of inner products of (snapshot - centre), one row per snapshot (arXiv 1712.09913 takes the
    singular vectors of the same differences), so that of snapshots in files only a hundred thousand entries each are in
    memory at a time.

    Args:
        snapshots: Weights along the trajectory, at least two that differ from the centre; may load them when asked.
        center: The end of the trajectory.
        count: 1 or 2 directions.

    Returns:
        A plane whose `explained` are shares of the sum of squared distances from the centre.

    Raises:
        ValueError: if the snapshots do not spread in so many directions, or are not finite.
    """
    gram = torch.zeros(len(snapshots), len(snapshots), dtype=torch.float64)
    for _, _, rows in _chunks(snapshots, center):
        gram += rows @ rows.T
    if not torch.isfinite(gram).all():
        raise ValueError("a trajectory whose weights are not finite has no principal directions: training diverged")
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    total = float(values.sum())
    spread = int((values > FLAT * total).sum()) if total > 0 else 0
    if spread < count:
        raise ValueError(
            f"a trajectory of {len(snapshots)} snapshots that spreads in {spread} directions has no {count} principal "
            "ones: record more snapshots"
        )
    directions = tuple([torch.zeros_like(own) for own in center] for _ in range(count))
    weights = (vectors[:, :count] / values[:count].sqrt()).T
    for index, part, rows in _chunks(snapshots, center):
        for direction, combined in zip(directions, weights @ rows, strict=True):
            direction[index].view(-1)[part] = combined.to(direction[index])
    explained = tuple((values[:count] / total).tolist())
    labels = tuple(
        f"principal direction {index} ({100 * share:.1f} % of the variance)" for index, share in enumerate(explained, 1)
    )
    return Plane(directions, labels, _cosine(list(directions)), explained=explained)


def _chunks(snapshots: Sequence[Weights], center: Weights) -> Iterator[tuple[int, slice, Tensor]]:
    """Index of a tensor, part of it, and that part of (snapshot - centre) of all snapshots in float64 on the CPU."""
    # One after another, not per chunk: a snapshot may be a file, of which only the part that is used is read.
    loaded = [list(snapshot) for snapshot in snapshots]
    for index, own in enumerate(center if loaded else ()):
        for start in range(0, own.numel(), CHUNK):
            part = slice(start, start + CHUNK)
            origin = own.detach().reshape(-1)[part].cpu().double()
            rows = [snapshot[index].detach().reshape(-1)[part].cpu().double() - origin for snapshot in loaded]
            yield index, part, torch.stack(rows)


def eigenvector_plane(curvature: Curvature, count: int = 2, seed: int = 0, tolerance: float = 1e-3) -> Plane:
    """The directions of largest curvature: unit eigenvectors of the Hessian.

    Args:
        curvature: Of the loss at the centre.
        count: 1 or 2 directions.
        seed: Of the search's start.
        tolerance: Relative change of the eigenvalues at which the search stops.

    Raises:
        FloatingPointError: if the curvature is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = curvature.random(generator)
    norm = torch.linalg.vector_norm(curvature.gradient)
    start = curvature.gradient / norm if norm > 0 else torch.zeros_like(noise)
    start = start + 0.1 * noise / torch.linalg.vector_norm(noise)
    pairs = largest_eigenvalues(curvature.product, start, count, tolerance, 60, generator=generator)
    assert pairs.vectors is not None
    directions = [[part.clone() for part in curvature.split(vector)] for vector in pairs.vectors]
    labels = tuple(f"eigenvector {index} (eigenvalue {value:.4g})" for index, value in enumerate(pairs.values, 1))
    return Plane(tuple(directions), labels, _cosine(directions), eigenvalues=pairs.values)


def coordinates(weights: Weights, center: Weights, plane: Plane) -> list[float]:
    """Where the nearest point of the plane to some weights lies, in units of its directions."""
    way = _difference(weights, center)
    gram = torch.tensor(
        [[inner_product(one, other) for other in plane.directions] for one in plane.directions], dtype=torch.float64
    )
    heights = torch.tensor([inner_product(way, direction) for direction in plane.directions], dtype=torch.float64)
    return torch.linalg.solve(gram, heights).tolist()


def inner_product(first: Weights, second: Weights) -> float:
    """Of two lists of tensors taken as vectors, summed in double precision."""
    products = [torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(first, second, strict=True)]
    return float(torch.stack(products).cpu().double().sum())


def _difference(weights: Weights, center: Weights) -> list[Tensor]:
    return [own.to(origin) - origin for own, origin in zip(weights, center, strict=True)]


def _orthogonal(direction: Weights, to: Weights) -> list[Tensor]:
    share = inner_product(direction, to) / inner_product(to, to)
    return [part - share * other for part, other in zip(direction, to, strict=True)]


def _cosine(directions: Sequence[Weights]) -> float | None:
    if len(directions) < 2:
        return None
    first, second = directions
    lengths = inner_product(first, first) * inner_product(second, second)
    return inner_product(first, second) / math.sqrt(lengths) if lengths else None
