"""Functions over any number of weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steepest.lightning_modules.objectives.base import Objective, check_dimensions


class Rosenbrock(Objective):
    """Rosenbrock's valley: a curved floor that falls slowly to the minimum 0 at (1, ..., 1).

    Args:
        dimensions: Number of weights, at least 2.
        start: Where the weights start; None takes (-1.2, 1, -1.2, 1, ...).
    """

    def __init__(self, dimensions: int = 2, start: Sequence[float] | None = None) -> None:
        check_dimensions(dimensions, least=2)
        usual = [(-1.2, 1.0)[index % 2] for index in range(dimensions)]
        limits = ((-2.0, 2.0), (-1.0, 3.0)) if dimensions == 2 else None
        super().__init__(usual if start is None else start, [[1.0] * dimensions], 0.0, limits)

    def value(self, points: Tensor) -> Tensor:
        """The sum of 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2."""
        x, after = points[..., :-1], points[..., 1:]
        return (100 * (after - x**2) ** 2 + (1 - x) ** 2).sum(-1)


class StyblinskiTang(Objective):
    """The function of Styblinski and Tang: of its 2^n minima one is the best, -39.166 n at -2.9035 in each weight.

    Args:
        dimensions: Number of weights, at least 1.
        start: Where the weights start; None takes the origin.
    """

    def __init__(self, dimensions: int = 2, start: Sequence[float] | None = None) -> None:
        check_dimensions(dimensions)
        best = -2.903534027771177
        limits = ((-5.0, 5.0), (-5.0, 5.0)) if dimensions == 2 else None
        usual = [0.0] * dimensions
        value = -39.16616570377141 * dimensions
        super().__init__(usual if start is None else start, [[best] * dimensions], value, limits)

    def value(self, points: Tensor) -> Tensor:
        """Half the sum of x^4 - 16 x^2 + 5 x."""
        return 0.5 * (points**4 - 16 * points**2 + 5 * points).sum(-1)


class Rastrigin(Objective):
    """Rastrigin's function: a bowl under a grid of minima one apart, the best one 0 at the origin.

    Args:
        dimensions: Number of weights, at least 1.
        start: Where the weights start; None takes 0.4 in each, in the best minimum's own hollow.
    """

    def __init__(self, dimensions: int = 2, start: Sequence[float] | None = None) -> None:
        check_dimensions(dimensions)
        limits = ((-2.6, 2.6), (-2.6, 2.6)) if dimensions == 2 else None
        super().__init__([0.4] * dimensions if start is None else start, [[0.0] * dimensions], 0.0, limits)

    def value(self, points: Tensor) -> Tensor:
        """The sum of 10 + x^2 - 10 cos(2 pi x)."""
        return (10 + points**2 - 10 * torch.cos(2 * math.pi * points)).sum(-1)


class Ackley(Objective):
    """Ackley's function: a rippled plain around a funnel whose tip, 0 at the origin, is not smooth.

    Args:
        dimensions: Number of weights, at least 1.
        start: Where the weights start; None takes 0.4 in each, inside the funnel.
    """

    def __init__(self, dimensions: int = 2, start: Sequence[float] | None = None) -> None:
        check_dimensions(dimensions)
        limits = ((-3.0, 3.0), (-3.0, 3.0)) if dimensions == 2 else None
        super().__init__([0.4] * dimensions if start is None else start, [[0.0] * dimensions], 0.0, limits)

    def value(self, points: Tensor) -> Tensor:
        """20 + e - 20 exp(-0.2 rms(x)) - exp(mean cos(2 pi x))."""
        # The norm, unlike the root of a sum, has a subgradient at its tip.
        size = torch.linalg.vector_norm(points, dim=-1) / math.sqrt(points.shape[-1])
        ripples = torch.cos(2 * math.pi * points).mean(-1)
        return 20 * (1 - torch.exp(-0.2 * size)) + math.e - torch.exp(ripples)


class PowellSingular(Objective):
    """Powell's singular function of four weights: at its minimum 0, the origin, half of the curvatures vanish.

    No rate is linear there: what converges, does it slower and slower.

    Args:
        start: Where the weights start.
    """

    def __init__(self, start: Sequence[float] = (3.0, -1.0, 0.0, 1.0)) -> None:
        super().__init__(start, [[0.0] * 4], 0.0)

    def value(self, points: Tensor) -> Tensor:
        """(a + 10 b)^2 + 5 (c - d)^2 + (b - 2c)^4 + 10 (a - d)^4."""
        a, b, c, d = points.unbind(-1)
        return (a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4
