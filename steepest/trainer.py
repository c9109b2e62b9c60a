"""The Trainer of the command line."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.profilers import PassThroughProfiler

from callbacks.landscapes import Directions, LandscapeOptions
from diagnostics.guards import BatchNormMode
from diagnostics.landscape_directions import Normalization
from steepest.landscape import run_landscape

_NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, without the generator that Lightning enters some fifty times a step to do so."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:
        """A context that does nothing, always the same one."""
        return _NOTHING


class Trainer(lightning.Trainer):
    """Lightning's Trainer with a run folder of its own, whatever loggers there are.

    Every public method with typed arguments can become a command.
    """

    # Set on rank zero; the other ranks learn it when `log_dir` is first asked for.
    run_folder: Path | None = None
    _agreed = False
    _work: Callable[[], None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if type(self.profiler) is PassThroughProfiler:
            self.profiler = NoProfiler()

    @property
    def log_dir(self) -> str | None:
        """Folder of this run; the first access asks rank zero, so all ranks must take part in it."""
        if not self._agreed:
            self.run_folder = self.strategy.broadcast(self.run_folder)
            self._agreed = True
        return str(self.run_folder) if self.run_folder is not None else None

    def _run_stage(self) -> Any:
        # Everything is in place: processes, devices, data, weights. Lightning would now enter the fit loop.
        return super()._run_stage() if self._work is None else self._work()

    def landscape(
        self,
        model: lightning.LightningModule,
        datamodule: lightning.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        directions: Directions = "random",
        dimensions: int | None = None,
        checkpoints: Sequence[str] | str = (),
        normalization: Normalization = "filter",
        resolution: int = 25,
        reach: float | None = None,
        batch_norm: BatchNormMode = "batch",
        batches: int = 4,
        seed: int = 0,
        animate: bool = True,
        output_dir: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Draw the loss around a checkpoint's weights.

        Costs resolution^dimensions passes over the batches, shared among the processes; what is done is kept, and the
        same command continues it. NPZ, JSON, PNG, SVG and GIF go to `landscape/` in the folder of the checkpoint's run.

        Args:
            model: The model.
            datamodule: The data.
            ckpt_path: Checkpoint whose weights are in the middle; without --config its run's config is taken.
            directions: random, trajectory (principal directions of the weights that LossLandscape recorded, or of
                --checkpoints), checkpoints (through one or two others), or eigenvectors (of the Hessian).
            dimensions: 1 draws a curve, 2 a plane; null as many as there are other checkpoints to go to, else 2.
            checkpoints: Other checkpoints of the same model, in brackets if there are several.
            normalization: Of random directions: filter (arXiv 1712.09913), layer, or global (unit norm).
            resolution: Points along each axis, at least 3; odd numbers put the weights in the middle.
            reach: Distance from the weights to the ends of the axes in units of the directions; null chooses.
            batch_norm: Batch normalization by the statistics of the batch, as in training, or by the running ones.
            batches: Average the loss over so many of the first training batches.
            seed: Of random directions.
            animate: Write a GIF of the trajectory, if there is one.
            output_dir: Folder for the files; null makes one in the folder of the checkpoint's run.
            weights_only: Load tensors and plain values only.

        Raises:
            FileNotFoundError: if a checkpoint is missing.
            ValueError: if an option is out of range or does not fit the checkpoint.
        """
        if ckpt_path is None:
            raise ValueError("landscape needs --ckpt_path, the checkpoint of a run")
        if batches < 1:
            raise ValueError(f"--batches must be at least 1, got {batches}")
        others = [checkpoints] if isinstance(checkpoints, str) else list(checkpoints)
        if dimensions is None:
            dimensions = 1 if directions == "checkpoints" and len(others) == 1 else 2
        options = LandscapeOptions(directions, dimensions, normalization, resolution, reach, batch_norm, seed)
        checkpoint = Path(ckpt_path)
        self._work = lambda: run_landscape(self, options, checkpoint, others, batches, animate, output_dir)
        try:
            self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only)
        finally:
            self._work = None
