"""A loss landscape of a LightningModule on given batches, shared among the ranks."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from callbacks.probe import diagnostic_loss, probe
from diagnostics.batches import batch_size
from diagnostics.curvature import Curvature
from diagnostics.guards import BatchNormMode
from diagnostics.landscape import (
    Ranks,
    Surface,
    empty_surface,
    fill,
    fingerprint,
    grid_axis,
    load_surface,
    save_surface,
)
from diagnostics.landscape_directions import (
    NORMALIZATIONS,
    Normalization,
    Plane,
    coordinates,
    eigenvector_plane,
    inner_product,
    plane_through,
    principal_plane,
    random_plane,
)
from diagnostics.trajectory import FewSnapshots, Snapshot, Trajectory, fitting
from diagnostics.updates import plain_name

Directions = Literal["random", "trajectory", "checkpoints", "eigenvectors"]
DIRECTIONS = ("random", "trajectory", "checkpoints", "eigenvectors")
EXPLAINED = 0.9  # a plane that shows less of a trajectory's spread than this misleads
MARGIN = 0.3  # of what a plane must show, on each side

Result = TypeVar("Result")
Report = Callable[[int, int, float], None]


@dataclass(frozen=True)
class LandscapeOptions:
    """What to draw; see `callbacks.loss_landscape.LossLandscape`.

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
        path: Step and coordinates of each snapshot of the trajectory.
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


def measure_landscape(
    trainer: Trainer,
    pl_module: LightningModule,
    batches: Sequence[Any],
    options: LandscapeOptions,
    *,
    others: Mapping[str, Snapshot] | None = None,
    trajectory: Trajectory | None = None,
    file: Callable[[str], Path | None] = lambda fingerprint: None,
    progress: Report | None = None,
) -> Landscape:
    """Evaluate the loss around the module's weights; every rank must call it, and all return the same.

    Args:
        trainer: The trainer, for its ranks and its precision.
        pl_module: The module; left exactly as it was.
        batches: The same on all ranks; the loss is the mean over their samples.
        options: What to evaluate.
        others: State dictionaries of other checkpoints by name: the ends for directions "checkpoints", points on the
            picture otherwise. Used on rank zero.
        trajectory: Snapshots to find the principal directions of, and to draw. Used on rank zero.
        file: Where to keep the surface, given its fingerprint; an unfinished one there is continued.
        progress: As for `diagnostics.landscape.fill`.

    Raises:
        FloatingPointError: if the loss is not finite at the module's weights.
        ValueError: if directions cannot be made of what there is.
    """
    batches = [move_data_to_device(batch, pl_module.device) for batch in batches]
    with probe(trainer, pl_module, batches[0], batch_norm=options.batch_norm):
        loss = _mean_loss(pl_module, batches)
        maker = _Maker(pl_module, batches, options, others or {}, trajectory)
        tensors = list(maker.moved.values())
        plane, places, axes = of_rank_zero(trainer, maker.make)
        plane = dataclasses.replace(plane, directions=_onto(plane, tensors))
        mark = of_rank_zero(trainer, lambda: maker.mark(plane, axes))
        path = of_rank_zero(trainer, lambda: file(mark))
        surface = of_rank_zero(trainer, lambda: _started(axes, mark, path))
        fill(
            surface,
            loss,
            tensors,
            plane,
            ranks=ranks_of(trainer),
            save=None if path is None else lambda surface: save_surface(surface, path),
            progress=progress,
        )
    count = len(maker.steps) if trainer.is_global_zero else None
    count = trainer.strategy.broadcast(count)
    steps = trainer.strategy.broadcast(maker.steps)
    walk = tuple((step, tuple(place)) for step, place in zip(steps, places[:count], strict=True))
    points = {name: tuple(place) for name, place in zip(others or {}, places[count:], strict=True)}
    return Landscape(options, plane, surface, walk, points, sum(_weights(batches)))


class _Maker:
    """What is done on rank zero alone before the grid is shared.

    Attributes:
        moved: The tensors that the directions change, by plain name.
    """

    def __init__(
        self,
        pl_module: LightningModule,
        batches: Sequence[Any],
        options: LandscapeOptions,
        others: Mapping[str, Snapshot],
        trajectory: Trajectory | None,
    ) -> None:
        self.pl_module = pl_module
        self.batches = batches
        self.options = options
        self.others = {name: {plain_name(key): value for key, value in state.items()} for name, state in others.items()}
        self.trajectory = trajectory
        self.moved = trained_weights(pl_module)
        if options.directions == "checkpoints":
            # Between two checkpoints everything that was learnt changes, running statistics included where they count.
            self.moved = {plain_name(name): own.detach() for name, own in pl_module.named_parameters()}
            if options.batch_norm == "running":
                self.moved |= {
                    plain_name(name): own
                    for name, own in pl_module.named_buffers()
                    if own.is_floating_point() and own.numel() > 0 and plain_name(name) in _stored(pl_module)
                }

    @property
    def steps(self) -> list[int]:
        """Of the snapshots that are drawn."""
        return [] if self.trajectory is None else list(self.trajectory.steps)

    def make(self) -> tuple[Plane, list[list[float]], tuple[NDArray, ...]]:
        """Directions (on the CPU), coordinates of snapshots and other weights, and axes."""
        center = list(self.moved.values())
        snapshots = FewSnapshots(self.trajectory, self.moved) if self.trajectory is not None else ()
        others = [fitting(state, self.moved, name) for name, state in self.others.items()]
        plane = self._plane(center, snapshots, others)
        places = [coordinates(weights, center, plane) for weights in (*snapshots, *others)]
        axes = tuple(self._axis(index, plane, places, center) for index in range(len(plane.directions)))
        directions = tuple([part.cpu() for part in direction] for direction in plane.directions)
        return dataclasses.replace(plane, directions=directions), places, axes

    def mark(self, plane: Plane, axes: Sequence[NDArray]) -> str:
        """The fingerprint of all that the losses depend on."""
        buffers = dict(self.pl_module.named_buffers())
        kind = type(self.pl_module).__qualname__
        return fingerprint(
            [kind, self.moved, buffers, plane.directions, list(axes), self.batches, self.options.batch_norm]
        )

    def _plane(self, center: list[Tensor], snapshots: Sequence[list[Tensor]], others: list[list[Tensor]]) -> Plane:
        options = self.options
        if options.directions == "random":
            generator = torch.Generator().manual_seed(options.seed)
            return random_plane(center, options.dimensions, options.normalization, generator)
        if options.directions == "checkpoints":
            return plane_through(center, others[:2], ["the checkpoint", *self.others])
        if options.directions == "trajectory":
            return principal_plane(snapshots, center, options.dimensions)
        losses = [lambda batch=batch: diagnostic_loss(self.pl_module, batch) for batch in self.batches]
        parameters = [own for own in self.pl_module.parameters() if own.requires_grad]
        return eigenvector_plane(Curvature(losses, parameters), options.dimensions, options.seed)

    def _axis(self, index: int, plane: Plane, places: Sequence[Sequence[float]], center: Sequence[Tensor]) -> NDArray:
        options, reach = self.options, self.options.reach
        if reach is None and options.directions in ("trajectory", "checkpoints"):
            seen = [0.0, *(place[index] for place in places)]
            if options.directions == "checkpoints" and len(plane.directions) == 1:
                return grid_axis(-0.5, 1.5, options.resolution)
            # As wide as the widest of all directions where a plane's axes have the same scale.
            margin = MARGIN * max(max(place) - min(place) for place in _columns(places, len(plane.directions)))
            return grid_axis(min(seen) - margin, max(seen) + margin, options.resolution)
        if reach is None and options.directions == "eigenvectors":
            # Where the quadratic model has climbed by 2 along the sharpest direction: a valley and its walls.
            top = max(map(abs, plane.eigenvalues))
            reach = math.sqrt(2 * 2.0 / top) if top > 0 else 1.0
        elif reach is None:
            # A filter-normalized direction is about as long as the weights; others go as far.
            reach = 1.0 if options.normalization != "global" else math.sqrt(inner_product(center, center))
        return grid_axis(-reach, reach, options.resolution)


def trained_weights(pl_module: LightningModule) -> dict[str, Tensor]:
    """The trainable parameters' values by plain name, in order."""
    named = pl_module.named_parameters()
    return {plain_name(name): own.detach() for name, own in named if own.requires_grad}


def ranks_of(trainer: Trainer) -> Ranks:
    """The trainer's ranks, as those who share a grid."""
    if trainer.world_size == 1:
        return Ranks()

    def total(values: Tensor) -> Tensor:
        # Some backends sum on the device only, and not every device knows double precision.
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, values)
        return torch.stack(parts).sum(0)

    return Ranks(trainer.global_rank, trainer.world_size, total, trainer.strategy.broadcast)


def of_rank_zero(trainer: Trainer, work: Callable[[], Result]) -> Result:
    """Do something on rank zero and give its result, or its error, to all; every rank must call it."""
    result: Any = None
    error: Exception | None = None
    if trainer.is_global_zero:
        try:
            result = work()
        except Exception as caught:
            error = caught
    if trainer.world_size > 1:
        result, message = trainer.strategy.broadcast((result, None if error is None else str(error)))
        if error is None and message is not None:
            raise RuntimeError(f"rank 0: {message}")
    if error is not None:
        raise error
    return result


def _mean_loss(pl_module: LightningModule, batches: Sequence[Any]) -> Callable[[], Tensor]:
    weights = _weights(batches)
    if len(batches) == 1:
        return lambda: diagnostic_loss(pl_module, batches[0])

    def mean() -> Tensor:
        losses = torch.stack([diagnostic_loss(pl_module, batch).detach() for batch in batches])
        return torch.dot(losses, losses.new_tensor(weights)) / sum(weights)

    return mean


def _weights(batches: Sequence[Any]) -> list[int]:
    return [batch_size(batch) or 1 for batch in batches]


def _started(axes: Sequence[NDArray], mark: str, path: Path | None) -> Surface:
    if path is not None and path.is_file():
        surface = load_surface(path)
        if surface.fingerprint == mark:
            return surface
    return empty_surface(axes, mark)


def _onto(plane: Plane, tensors: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
    """The directions in the dtype and on the device of the tensors that they move."""
    return tuple([part.to(own) for part, own in zip(direction, tensors, strict=True)] for direction in plane.directions)


def _columns(places: Sequence[Sequence[float]], count: int) -> list[list[float]]:
    return [[0.0, *(place[index] for place in places)] for index in range(count)]


def _stored(pl_module: LightningModule) -> set[str]:
    return {plain_name(name) for name in pl_module.state_dict()}
