"""Quadratics with a given spectrum: what is known of an optimizer exactly is known here."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steepest.lightning_modules.objectives.base import Objective


class Quadratic(Objective):
    """Quadratic bowl with given eigenvalues: 0.5 w'Hw, its minimum 0 at the origin.

    Args:
        eigenvalues: Of the Hessian, each above 0.
        rotation_seed: Seed of a random rotation of the eigenvectors; None leaves them along the axes, where optimizers
            that scale every coordinate by itself have an easy time.
        start: Where the weights start; None takes ones along the eigenvectors.
        rows: Arrange the weights as a matrix of so many rows; with 4 rows and columns or more, optimizers of matrices
            such as Muon take it for one.

    Raises:
        ValueError: if an eigenvalue is not above 0, there is none, or `rows` does not divide their number.
    """

    hessian: Tensor

    def __init__(
        self,
        eigenvalues: Sequence[float] = (1.0, 10.0, 100.0),
        rotation_seed: int | None = None,
        start: Sequence[float] | None = None,
        rows: int = 1,
    ) -> None:
        count = len(eigenvalues)
        if count == 0:
            raise ValueError("eigenvalues of Quadratic must be at least one number, got none")
        for value in eigenvalues:
            if not 0 < value < math.inf:
                raise ValueError(f"eigenvalues of Quadratic must be finite numbers above 0, got {value}")
        if rows < 1 or count % rows:
            raise ValueError(f"rows must divide the number of eigenvalues {count}, got {rows}")
        vectors = torch.eye(count, dtype=torch.float64)
        if rotation_seed is not None:
            generator = torch.Generator().manual_seed(rotation_seed)
            vectors = torch.linalg.qr(torch.randn(count, count, generator=generator, dtype=torch.float64))[0]
        reach = 1.3 * max(map(abs, start or (1.0,))) if count == 2 else 0.0
        super().__init__(
            vectors.sum(1).tolist() if start is None else start,
            [[0.0] * count],
            0.0,
            ((-reach, reach), (-reach, reach)) if count == 2 else None,
            rows,
        )
        hessian = vectors @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ vectors.T
        self.register_buffer("hessian", hessian, persistent=False)

    def value(self, points: Tensor) -> Tensor:
        """0.5 w'Hw."""
        return 0.5 * ((points @ self.hessian.to(points)) * points).sum(-1)


class ElongatedBowl(Objective):
    """The bowl x^2 + 10 y^2: a ravine along x, curvatures 2 and 20.

    Args:
        start: Where the weights start.
    """

    def __init__(self, start: Sequence[float] = (5.0, 4.0)) -> None:
        super().__init__(start, [[0.0, 0.0]], 0.0, ((-6.0, 6.0), (-5.0, 5.0)))

    def value(self, points: Tensor) -> Tensor:
        """x^2 + 10 y^2."""
        x, y = points.unbind(-1)
        return x**2 + 10 * y**2
