"""A loss landscape of a LightningModule on given batches, shared among the ranks."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor, nn

from steepest.callbacks.landscapes import Landscape, LandscapeOptions
from steepest.callbacks.probe import MeasurementUnavailableError, diagnostic_loss, probe
from steepest.common.parameter_names import buffer_names, parameter_names, without_wrappers
from steepest.diagnostics.common.batches import batch_size
from steepest.diagnostics.curvature.operator import Curvature, CurvatureUnavailableError
from steepest.diagnostics.landscape.directions import (
    Plane,
    coordinates,
    eigenvector_plane,
    inner_product,
    plane_through,
    principal_plane,
    random_plane,
)
from steepest.diagnostics.landscape.landscape import (
    Ranks,
    Surface,
    empty_surface,
    fill,
    fingerprint,
    grid_axis,
    load_surface,
    save_surface,
)
from steepest.diagnostics.landscape.trajectory import FewSnapshots, NamedWeights, Trajectory, fitting

MARGIN = 0.3  # of what a plane must show, on each side

# Errors that mean something to whoever catches them.
_KNOWN: tuple[type[Exception], ...] = (
    *(MeasurementUnavailableError, CurvatureUnavailableError),
    *(FileNotFoundError, OSError, FloatingPointError, ValueError),
)

Result = TypeVar("Result")
Report = Callable[[int, int, float], None]


def measure_landscape(
    trainer: Trainer,
    pl_module: LightningModule,
    batches: Sequence[Any],
    options: LandscapeOptions,
    *,
    others: Mapping[str, NamedWeights] | None = None,
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
        progress: As for `steepest.diagnostics.landscape.landscape.fill`.

    Raises:
        FloatingPointError: if the loss is not finite at the module's weights.
        MeasurementUnavailableError: if the ranks cannot share the work.
        ValueError: if directions cannot be made of what there is.
    """
    synchronized = any(isinstance(child, nn.SyncBatchNorm) for child in pl_module.modules())
    if trainer.world_size > 1 and synchronized and options.batch_norm == "batch":
        # Each rank evaluates other points: one would wait for the statistics of the others for ever.
        raise MeasurementUnavailableError(
            "the ranks of a landscape evaluate different points, and SyncBatchNorm needs all of them at each: use "
            "batch_norm='running', or a single process"
        )
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
    steps = of_rank_zero(trainer, lambda: maker.steps)
    count = len(steps)
    walk = tuple((step, tuple(place)) for step, place in zip(steps, places[:count], strict=True))
    if walk and walk[-1][0] < trainer.global_step:
        walk = (*walk, (trainer.global_step, (0.0,) * len(plane.directions)))  # it ends where we are
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
        others: Mapping[str, NamedWeights],
        trajectory: Trajectory | None,
    ) -> None:
        self.pl_module = pl_module
        self.batches = batches
        self.options = options
        self.trajectory = trajectory
        self.moved = trained_weights(pl_module)
        if options.directions == "checkpoints":
            # Between two checkpoints everything that was learnt changes, running statistics included where they count.
            self.moved = {name: own.detach() for own, name in parameter_names(pl_module).items()}
            if options.batch_norm == "running":
                stored = set(map(id, pl_module.state_dict(keep_vars=True).values()))
                self.moved |= {
                    name: own
                    for own, name in buffer_names(pl_module).items()
                    if own.is_floating_point() and own.numel() > 0 and id(own) in stored
                }

        # Saved by another module: what it had around its parts shows in the names alone.
        self.others = {
            name: {key if key in self.moved else without_wrappers(key): value for key, value in state.items()}
            for name, state in others.items()
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
    return {name: own.detach() for own, name in parameter_names(pl_module).items() if own.requires_grad}


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
        # Not the error itself: not every one survives the way.
        kind = next((known for known in _KNOWN if isinstance(error, known)), RuntimeError)
        result, failed, kind, message = trainer.strategy.broadcast((result, error is not None, kind, str(error)))
        if failed and error is None:
            raise kind(message)
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
