"""The path of the weights over a surface with known minima, in bounded memory."""

from typing import Any, Protocol

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor


class Surface(Protocol):
    """What a path is drawn on."""

    minima: Tensor
    minimum_value: float
    limits: tuple[tuple[float, float], tuple[float, float]] | None

    def value(self, points: Tensor) -> Tensor:
        """The function at points of shape (..., dimensions), as shape (...)."""
        ...

    def distance(self, points: Tensor) -> Tensor:
        """Distance to the nearest minimum, likewise."""
        ...


class ObjectivePath:
    """Weights by optimizer step, copied to the host when they are asked for.

    With more than `max_rows` points only every second step is kept from then on, then every fourth, and so forth, so
    that the whole run stays covered; the newest point is always there.

    Args:
        max_rows: Most points to keep, at least 2.

    Attributes:
        stride: Distance of the kept steps.
    """

    def __init__(self, max_rows: int = 5000) -> None:
        if max_rows < 2:
            raise ValueError(f"max_rows must be at least 2, got {max_rows}")
        self.max_rows = max_rows
        self.stride = 1
        self._steps: list[int] = []
        self._points: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> list[int]:
        """Optimizer steps, ascending; 0 is the start."""
        return list(self._steps)

    @property
    def newest(self) -> int:
        """The newest step."""
        return self._steps[-1]

    @property
    def points(self) -> Tensor:
        """Weights at these steps, shape (points, dimensions), on the host."""
        return torch.stack(self._points).cpu()

    def append(self, step: int, weights: Tensor) -> None:
        """Add a copy of the weights after a step."""
        if len(self._steps) > 1 and self._steps[-1] % self.stride:
            del self._steps[-1], self._points[-1]  # it was only there as the newest
        if self._points and self._points[0].device != weights.device:  # of a checkpoint, which a GPU run goes on with
            self._points = [point.to(weights.device) for point in self._points]
        self._steps.append(step)
        self._points.append(weights.detach().flatten().clone())
        while len(self) > self.max_rows:
            self.stride *= 2
            kept = [place for place, own in enumerate(self._steps) if own % self.stride == 0 or own == step]
            self._steps = [self._steps[place] for place in kept]
            self._points = [self._points[place] for place in kept]

    def table(self, surface: Surface) -> dict[str, NDArray[Any]]:
        """Steps, weights, losses, gaps and distances at every point, and the minima, as arrays."""
        points = self.points
        minima = surface.minima.detach().cpu()
        with torch.no_grad():
            place = surface.minima.device
            losses = surface.value(points.to(place)).cpu()
            distances = surface.distance(points.to(place)).cpu()
        return {
            "steps": numpy.array(self._steps),
            "weights": points.double().numpy(),
            "losses": losses.double().numpy(),
            "gaps": losses.double().numpy() - surface.minimum_value,
            "distances": distances.double().numpy(),
            "minima": minima.double().numpy(),
        }

    def state_dict(self) -> dict[str, Any]:
        """All points."""
        return {"stride": self.stride, "steps": list(self._steps), "points": self.points if self._points else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.stride, self._steps = state["stride"], list(state["steps"])
        self._points = [] if state["points"] is None else list(state["points"].unbind())
