"""What all objectives with a known minimum share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Objective(nn.Module, ABC):
    """A function of a few weights whose minima are known; the weights are the module's only parameter.

    A subclass implements `value` and passes what is known of it.

    Args:
        start: Where the weights start.
        minima: All points where the function is smallest, each as long as `start`.
        minimum_value: The value there.
        limits: Range of each of two axes that shows what is interesting, ((x0, x1), (y0, y1)); None in more dimensions.
        rows: Rows of the parameter, a matrix; with one row a rule can still send it to an optimizer of matrices.

    Attributes:
        weight: The parameter.
        minima: Shape (count, dimensions).

    Raises:
        ValueError: if the start is not as long as a minimum, or not finite.
    """

    minima: Tensor

    def __init__(
        self,
        start: Sequence[float],
        minima: Sequence[Sequence[float]],
        minimum_value: float,
        limits: tuple[tuple[float, float], tuple[float, float]] | None = None,
        rows: int = 1,
    ) -> None:
        super().__init__()
        name, dimensions = type(self).__name__, len(minima[0])
        if len(start) != dimensions or not all(map(math.isfinite, start)):
            raise ValueError(f"start of {name} must be {dimensions} finite numbers, got {list(start)}")
        self.weight = nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()).reshape(rows, -1))
        # No part of a checkpoint, and never rounded: diagnostics and metrics measure distances to it.
        self.register_buffer("minima", torch.tensor(minima, dtype=torch.float64), persistent=False)
        self.minimum_value = minimum_value
        self.limits = limits

    @abstractmethod
    def value(self, points: Tensor) -> Tensor:
        """The function at points of shape (..., dimensions), as shape (...)."""

    def forward(self) -> Tensor:
        """The function at the weights, a scalar."""
        return self.value(self.weight.flatten())

    @property
    def dimensions(self) -> int:
        """Number of weights."""
        return self.weight.numel()

    def gap(self, points: Tensor) -> Tensor:
        """How far the function is above its minimum, for points of shape (..., dimensions)."""
        return self.value(points) - self.minimum_value

    def distance(self, points: Tensor) -> Tensor:
        """Euclidean distance to the nearest minimum, for points of shape (..., dimensions)."""
        return (points[..., None, :] - self.minima.to(points)).norm(dim=-1).amin(-1)


def check_dimensions(dimensions: int, least: int = 1) -> None:
    """Refuse a number of dimensions below `least`."""
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < least:
        raise ValueError(f"dimensions must be a whole number, at least {least}, got {dimensions!r}")
