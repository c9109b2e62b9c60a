"""Records the path of the weights over an objective with known minima."""

from typing import Any

import numpy
from lightning.pytorch import LightningModule, Trainer

from steepest.callbacks.reporting import ReportingDiagnostic
from steepest.common.atomic import replacing
from steepest.diagnostics.landscape import objective_path_figures
from steepest.diagnostics.landscape.objective_path import ObjectivePath, Surface


class ObjectiveTrajectory(ReportingDiagnostic):
    """The weights after every optimizer step of a `ToyObjective`, drawn on the function and written as arrays.

    The figure `trajectory` (in two dimensions the path on the contours; always gap and distance to the minimum over the
    steps) and `trajectory.npz` (steps, weights, losses, gaps, distances, minima) appear at the end of the run (a failed
    one too) and at most once a minute at the end of an epoch. Weights are the same on all ranks; rank zero writes.

    Args:
        max_rows: Most points to keep, at least 2; beyond that the steps kept are spread evenly over the run.
        figures: Draw the figure; without it only the file is written.

    Raises:
        ValueError: if `max_rows` is below 2, or at the start of a run whose module has no such objective.
    """

    name = "trajectory"
    group = "trajectory"
    logs_seconds = False

    def __init__(self, max_rows: int = 5000, figures: bool = True) -> None:
        super().__init__(every_n_steps=1)
        self.figures = figures
        self.trajectory = ObjectivePath(max_rows)
        self._surface: Surface | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the objective."""
        super().setup(trainer, pl_module, stage)
        objective: Any = getattr(pl_module, "objective", None)
        if not all(hasattr(objective, name) for name in ("weight", "minima", "value", "distance")):
            raise ValueError(
                f"ObjectiveTrajectory needs a model with a known objective, such as ToyObjective; "
                f"{type(pl_module).__name__} has none"
            )
        self._surface = objective

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record where the weights start."""
        super().on_train_start(trainer, pl_module)
        if not len(self.trajectory):
            self._record(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record where a step has led; a micro-batch that is only accumulated is not a step."""
        if trainer.global_step != self.trajectory.newest:
            self._record(trainer, pl_module)

    def _record(self, trainer: Trainer, pl_module: LightningModule) -> None:
        objective: Any = pl_module.objective
        self.trajectory.append(trainer.global_step, objective.weight)

    def write_report(self, trainer: Trainer) -> None:
        """Write the figure and the arrays."""
        if self._surface is None or not len(self.trajectory):
            return
        table = self.trajectory.table(self._surface)
        if self.run_folder is not None:
            with replacing(self.run_folder / "trajectory.npz") as path:
                numpy.savez_compressed(path, **table)  # pyright: ignore[reportArgumentType]
        if self.figures:
            figure = objective_path_figures.trajectory(table, self._surface, type(self._surface).__name__)
            self.write_figure(trainer, "trajectory", figure, self.trajectory.newest)

    def state_dict(self) -> dict[str, Any]:
        """The path so far."""
        return {**super().state_dict(), "trajectory": self.trajectory.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a resumed run's path."""
        super().load_state_dict(state_dict)
        self.trajectory.load_state_dict(state_dict["trajectory"])
