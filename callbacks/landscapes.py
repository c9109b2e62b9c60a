"""A loss landscape: what to draw, and what was found."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy

from steepest.diagnostics.common.guards import BatchNormMode
from steepest.diagnostics.landscape.directions import NORMALIZATIONS, Normalization, Plane
from steepest.diagnostics.landscape.landscape import Surface

Directions = Literal["random", "trajectory", "checkpoints", "eigenvectors"]
DIRECTIONS = ("random", "trajectory", "checkpoints", "eigenvectors")
EXPLAINED = 0.9  # a plane that shows less of a trajectory's spread than this misleads


@dataclass(frozen=True)
class LandscapeOptions:
    """What to draw; see `steepest.callbacks.loss_landscape.LossLandscape`.

    Raises:
        ValueError: if an option is out of range.
    """

    directions: Directions = "random"
    dimensions: int = 2
    normalization: Normalization = "filter"
    resolution: int = 25
    reach: float | None = None
    batch_norm: BatchNormMode = "batch"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("directions", self.directions, DIRECTIONS),
            ("normalization", self.normalization, NORMALIZATIONS),
            ("batch_norm", self.batch_norm, ("batch", "running")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if self.dimensions not in (1, 2):
            raise ValueError(f"dimensions must be 1 or 2, got {self.dimensions}")
        if self.resolution < 3:
            raise ValueError(f"resolution must be at least 3 points along an axis, got {self.resolution}")
        if self.reach is not None and not 0.0 < self.reach < math.inf:
            raise ValueError(f"reach must be above 0, got {self.reach}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True)
class Landscape:
    """A finished landscape.

    Attributes:
        options: As asked for.
        plane: The directions.
        surface: The losses.
        path: Step and coordinates of each snapshot of the trajectory, up to the weights in the middle.
        points: Coordinates of other weights by name.
        samples: In how many samples the loss is averaged over.
    """

    options: LandscapeOptions
    plane: Plane
    surface: Surface
    path: tuple[tuple[int, tuple[float, ...]], ...]
    points: dict[str, tuple[float, ...]]
    samples: int

    @property
    def walks(self) -> bool:
        """Whether there is a trajectory over a plane, to animate."""
        return len(self.path) > 1 and len(self.surface.axes) == 2

    def note(self) -> str:
        """How it was measured, in a line for figures."""
        statistics = {"batch": "batch statistics", "running": "running statistics"}[self.options.batch_norm]
        parts = [f"batch norm: {statistics}", f"{self.samples:,} samples"]
        if self.plane.cosine is not None:
            parts.append(f"cosine of the directions {self.plane.cosine:.1e}")
        if self.plane.explained:
            parts.append(f"{100 * sum(self.plane.explained):.1f} % of the variance shown")
        lost = int((~numpy.isfinite(self.surface.losses)).sum())
        return "; ".join([*parts, *([f"{lost} points not finite"] if lost else [])])

    @property
    def warning(self) -> str | None:
        """What a reader of the picture must know, if anything."""
        share = sum(self.plane.explained)
        if self.plane.explained and share < EXPLAINED:
            return (
                f"the plane shows {100 * share:.1f} % of the trajectory's variance, less than {100 * EXPLAINED:.0f} %: "
                "most of the way lies outside of the picture"
            )
        return None

    def scalars(self) -> dict[str, float]:
        """Numbers for loggers; the mode of batch normalization is in their names."""
        prefix = f"landscape/{self.options.batch_norm}"
        finite = self.surface.losses[numpy.isfinite(self.surface.losses)]
        scalars = {
            f"{prefix}_loss": self.surface.center,
            f"{prefix}_lowest": float(finite.min()),
            f"{prefix}_highest": float(finite.max()),
        }
        if self.plane.explained:
            scalars["landscape/explained"] = sum(self.plane.explained)
        return scalars

    def report(self) -> dict[str, Any]:
        """Everything but the weights, for a JSON file."""
        return {
            **dataclasses.asdict(self.options),
            "samples": self.samples,
            "labels": self.plane.labels,
            "cosine": self.plane.cosine,
            "explained": self.plane.explained,
            "eigenvalues": self.plane.eigenvalues,
            "scalars": self.scalars(),
            "nonfinite": int((~numpy.isfinite(self.surface.losses)).sum()),
            "axes": [axis.tolist() for axis in self.surface.axes],
            "losses": self.surface.losses.tolist(),
            "trajectory": {"steps": [step for step, _ in self.path], "coordinates": [place for _, place in self.path]},
            "points": self.points,
            "fingerprint": self.surface.fingerprint,
        }
