"""How the leading singular subspaces of weight matrices turn during training."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from steepest.diagnostics.gradient_flow.flow import norms
from steepest.diagnostics.spectral.monitor import Matrix, find_matrices
from steepest.diagnostics.spectral.singular_values import random_start

EXACT_UP_TO = 1024  # shorter side up to which all eigenvectors of the Gram matrix cost less than a training step or two
EXTRA = 8  # directions more than wanted, and
PASSES = 6  # passes over a larger matrix, which find subspaces of a spectrum with a gap (arXiv 0909.4061)

Subspaces = tuple[Tensor, Tensor]


def leading_subspaces(matrix: Tensor, count: int, name: str = "") -> Subspaces:
    """Orthonormal bases of the spaces that the leading left and right singular vectors span.

    Args:
        matrix: Shape (m, n), or with more dimensions, which are flattened as (m, n1 n2 ...). Finite.
        count: Number k of directions; at most min(m, n) are taken.
        name: Says where the search in a large matrix starts; exact up to a shorter side of 1024.

    Returns:
        Left basis of shape (m, k) and right basis of shape (n, k), in float32 or float64.
    """
    flat = matrix.detach().flatten(1)
    flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
    tall = flat.shape[0] > flat.shape[1]
    wide = flat.mT if tall else flat
    count = min(count, wide.shape[0])
    if wide.shape[0] <= EXACT_UP_TO:
        short = torch.linalg.eigh(wide @ wide.mT).eigenvectors[:, -count:]
    else:
        short = _search(wide, count, name)
    long = torch.linalg.qr(wide.mT @ short).Q
    return (long, short) if tall else (short, long)


def principal_angles(one: Tensor, other: Tensor) -> Tensor:
    """Principal angles between two subspaces (Bjoerck and Golub 1973).

    Args:
        one: Orthonormal basis of shape (m, k).
        other: Orthonormal basis of shape (m, k).

    Returns:
        k angles in radians, in [0, pi / 2], descending; in float64, as good as the bases are.
    """
    one, other = one.double(), other.double()
    overlap = one.mT @ other
    cosines = torch.linalg.svdvals(overlap).flip(0).clamp(max=1.0)
    # The cosine of a small angle is 1 to the last digit; its sine is not.
    sines = torch.linalg.svdvals(other - one @ overlap).clamp(max=1.0)
    return torch.where(cosines.square() < 0.5, cosines.acos(), sines.asin())


def turn(one: Tensor, other: Tensor) -> float:
    """How far a subspace has turned: root mean square of the principal angles, in degrees from 0 to 90."""
    return math.degrees(float(principal_angles(one, other).square().mean().sqrt()))


class SubspaceMonitor:
    """Follows the leading singular subspaces of all trainable matrices of a module.

    Args:
        module: The network.
        count: Number of leading directions, at least 1.

    Raises:
        ValueError: if `count` is below 1.
    """

    def __init__(self, module: nn.Module, count: int = 4) -> None:
        if count < 1:
            raise ValueError(f"subspaces need at least 1 direction, got {count}")
        self.count = count
        self._matrices = [matrix for matrix in find_matrices(module) if matrix.parameter.requires_grad]
        self._start: dict[str, Subspaces] = {}
        self._previous: dict[str, Subspaces] = {}

    def measure(self) -> dict[str, dict[str, float]]:
        """Compare with the last call and with the first one.

        Returns:
            By field and parameter name, in degrees: "left_drift" and "right_drift" (outputs and inputs) since the last
            call and the larger as "drift"; the same with "_from_start". Empty at the first call; a matrix that is not
            finite is left out.
        """
        fields: dict[str, dict[str, float]] = {}
        for matrix in self._finite():
            name = matrix.name
            left, right = (basis.cpu() for basis in leading_subspaces(matrix.parameter, self.count, name))
            for suffix, (other_left, other_right) in self._others(name):
                sides = turn(other_left, left), turn(other_right, right)
                for field, value in zip(("left_drift", "right_drift", "drift"), (*sides, max(sides)), strict=True):
                    fields.setdefault(field + suffix, {})[name] = value
            self._start.setdefault(name, (left, right))
            self._previous[name] = left, right
        return fields

    def _others(self, name: str) -> Iterable[tuple[str, Subspaces]]:
        if name in self._previous:
            yield "", self._previous[name]
            yield "_from_start", self._start[name]

    def _finite(self) -> list[Matrix]:
        measured = norms([matrix.parameter.detach() for matrix in self._matrices]).tolist()
        # An eigenvalue solver fails on a NaN.
        return [matrix for matrix, norm in zip(self._matrices, measured, strict=True) if math.isfinite(norm)]

    def state_dict(self) -> dict[str, Any]:
        """The subspaces of the first and of the last call; k (m + n) numbers each for every matrix."""
        return {"start": dict(self._start), "previous": dict(self._previous)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._start, self._previous = dict(state["start"]), dict(state["previous"])


def _search(wide: Tensor, count: int, name: str) -> Tensor:
    size = min(count + EXTRA, wide.shape[0])
    basis = torch.stack([random_start(f"{name}.{index}", wide.shape[0], wide) for index in range(size)], dim=1)
    for _ in range(PASSES):
        basis = torch.linalg.qr(wide @ torch.linalg.qr(wide.mT @ basis).Q).Q
    inside = basis.mT @ wide
    return basis @ torch.linalg.eigh(inside @ inside.mT).eigenvectors[:, -count:]
