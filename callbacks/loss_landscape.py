"""Draws the loss around the weights, and the way training took through it."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from steepest.callbacks.base import Diagnostic
from steepest.callbacks.cadence import Cadence
from steepest.callbacks.held_batches import HeldBatches
from steepest.callbacks.landscape_run import measure_landscape, trained_weights
from steepest.callbacks.landscapes import Directions, Landscape, LandscapeOptions
from steepest.callbacks.probe import MeasurementUnavailableError
from steepest.diagnostics.common.guards import BatchNormMode
from steepest.diagnostics.curvature.operator import CurvatureUnavailableError
from steepest.diagnostics.landscape.directions import Normalization
from steepest.diagnostics.landscape.figures import animation, draw
from steepest.diagnostics.landscape.trajectory import Trajectory

FOLDER = "trajectory"


class LossLandscape(Diagnostic):
    """A slice of the loss through the final weights, with the trajectory of training in it.

    While training it copies the weights now and then into `trajectory/` of the run folder (without a logger, which has
    a folder, into memory and checkpoints). At the end of training it evaluates the loss on a grid and writes
    `loss_landscape.npz` and `.json` and the figures `loss_landscape_contour` and `loss_landscape_surface` (with one
    dimension `loss_landscape_curve`), and `loss_landscape.gif`, the walk over the contours. `steepest landscape` draws
    other slices from the same snapshots later.

    It costs a copy of the weights per snapshot, at most `max_snapshots` times their size on the disk, and at the end
    resolution^2 forward passes of the probe batches: 625 by default, shared among the ranks.

    Scalars, `<mode>` being "batch" or "running" (how batch normalization was set, whether there is any or not):
    `landscape/<mode>_loss` at the weights, `landscape/<mode>_lowest` and `landscape/<mode>_highest` on the grid, and
    for a trajectory `landscape/explained`, the share of its variance that the plane shows.

    Args:
        every_n_steps: Take a snapshot every so many optimizer steps; doubled whenever there are too many.
        max_snapshots: Largest number of snapshots, at least 4; beyond it every second one is dropped.
        draw_every_n_epochs: Also draw at the end of every n-th epoch; None draws at the end of training only.
        directions: "trajectory": the two principal directions of the snapshots around the end (arXiv 1712.09913);
            "random"; "eigenvectors": the two directions of largest curvature.
        dimensions: 1 draws a curve, 2 a plane.
        normalization: Of random directions: "filter", "layer" or "global", see
            `steepest.diagnostics.landscape.directions.normalized`.
        resolution: Points along each axis, at least 3; odd numbers put the weights in the middle.
        reach: Distance from the weights to the ends of the axes, in units of the directions. None shows the whole
            trajectory; random directions as far as the weights are long; eigenvectors until the loss has risen by 2.
        batch_norm: Batch normalization by the statistics of the batch (the training objective) or by the running ones.
        probe_batch: Samples of a batch to use, on each rank.
        probe_batches: From how many of the first training batches.
        seed: Of random directions.
        figures: Draw the figures; without them only scalars, the NPZ and the JSON file are written.
        strict: Raise the error of a failed measurement instead of warning.

    Raises:
        ValueError: if an argument is out of range.
    """

    name = "landscape"
    group = "landscape"
    logs_seconds = False

    def __init__(
        self,
        every_n_steps: int = 10,
        max_snapshots: int = 60,
        draw_every_n_epochs: int | None = None,
        directions: Directions = "trajectory",
        dimensions: int = 2,
        normalization: Normalization = "filter",
        resolution: int = 25,
        reach: float | None = None,
        batch_norm: BatchNormMode = "batch",
        probe_batch: int = 128,
        probe_batches: int = 2,
        seed: int = 0,
        figures: bool = True,
        strict: bool = False,
    ) -> None:
        if directions == "checkpoints":
            raise ValueError(
                "directions must be 'trajectory', 'random' or 'eigenvectors', got 'checkpoints': those are drawn by "
                "`steepest landscape --checkpoints`"
            )
        if draw_every_n_epochs is not None and draw_every_n_epochs < 1:
            raise ValueError(f"draw_every_n_epochs must be at least 1, got {draw_every_n_epochs}")
        super().__init__(every_n_steps=every_n_steps, strict=strict)
        self.options = LandscapeOptions(directions, dimensions, normalization, resolution, reach, batch_norm, seed)
        self.draw_every_n_epochs = draw_every_n_epochs
        self.figures = figures
        self.held = HeldBatches(probe_batch, probe_batches)
        self.trajectory = Trajectory(max_snapshots, every_n_steps)
        self._resumed: dict[str, Any] | None = None
        self._last: Landscape | None = None

    def summary(self) -> Landscape | None:
        """The last landscape; None before the first."""
        return self._last

    # --- the trajectory ---------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where training starts, or what the resumed run has recorded."""
        if self.run_folder is not None:
            self.trajectory.folder = self.run_folder / FOLDER
        if self._resumed is not None:
            state, self._resumed = self._resumed, None
            gone = self.attempt(trainer, lambda: self.trajectory.load_state_dict(state, trainer.is_global_zero))
            gone, steps = trainer.strategy.broadcast((gone, self.trajectory.steps))
            self.trajectory.steps = list(steps)
            if gone is None or gone:
                missing = "snapshots" if gone is None else f"the snapshots of steps {', '.join(map(str, gone))}"
                self.warn_once(f"{missing} of the resumed run are gone: the trajectory continues without them")
        self.cadence = Cadence(every_n_steps=self.trajectory.every)
        super().on_train_start(trainer, pl_module)
        if not self.trajectory.steps and trainer.global_step == 0:
            with self.timed():
                self.attempt(trainer, lambda: self._record(trainer, pl_module))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the first samples of training."""
        if not self.held.complete:
            with self.timed():
                self.held.offer(trainer, batch)

    def measure(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> dict[str, float]:
        """Take a snapshot."""
        self._record(trainer, pl_module)
        self.cadence = Cadence(every_n_steps=self.trajectory.every)
        return {}

    def _record(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Ranks hold the same weights: rank zero keeps them, the others only count along.
        with self.together(trainer):
            self.trajectory.add(trainer.global_step, trained_weights(pl_module) if trainer.is_global_zero else None)

    # --- drawing ----------------------------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw if it is due."""
        epoch = trainer.current_epoch + 1
        if self.draw_every_n_epochs is not None and epoch % self.draw_every_n_epochs == 0:
            self._draw(trainer, pl_module, f"loss_landscape_epoch_{epoch}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the final landscape."""
        self._draw(trainer, pl_module, "loss_landscape")

    def _draw(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        with self.timed():
            landscape = self.attempt(trainer, lambda: self._measured(trainer, pl_module, name))
        seconds, self._seconds = self._seconds, 0.0
        if landscape is None:
            return
        self._last = landscape
        if landscape.warning is not None:
            self.warn_once(landscape.warning, "explained")
        step = trainer.global_step
        self.write_scalars(trainer, {**landscape.scalars(), f"diagnostics/{self.name}_seconds": seconds}, step)
        if trainer.is_global_zero:
            with self.forgiven(trainer):
                self._write(trainer, landscape, name, step)

    def _measured(self, trainer: Trainer, pl_module: LightningModule, name: str) -> Landscape:
        if not self.held.complete:
            raise MeasurementUnavailableError(f"the {self.held.batches} probe batches are not complete yet")
        folder = self.run_folder
        try:
            return measure_landscape(
                trainer,
                pl_module,
                self.held.of_all_ranks(),
                self.options,
                trajectory=self.trajectory,
                file=lambda fingerprint: None if folder is None else folder / f"{name}.npz",
            )
        except (CurvatureUnavailableError, ValueError) as error:
            raise MeasurementUnavailableError(str(error)) from error

    def _write(self, trainer: Trainer, landscape: Landscape, name: str, step: int) -> None:
        self.write_json(trainer, name, {"step": step, **landscape.report()})
        if not self.figures:
            return
        title = f"Loss around the weights of step {step:,}"
        surface, labels = landscape.surface, landscape.plane.labels
        for kind, figure in draw(surface, labels, title, landscape.note(), landscape.path).items():
            self.write_figure(trainer, f"{name}_{kind}", figure, step)
        if self.run_folder is not None and landscape.walks:
            animation(self.run_folder / "figures" / f"{name}.gif", surface, labels, "Training", landscape.path)

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The probe batches, and which snapshots there are (themselves only if they are in no files)."""
        return {**super().state_dict(), "held": self.held.state_dict(), "trajectory": self.trajectory.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a resumed run's trajectory, on its probe batches."""
        super().load_state_dict(state_dict)
        self.held.load_state_dict(state_dict["held"])
        self._resumed = state_dict["trajectory"]
