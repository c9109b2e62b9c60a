"""The Trainer of the command line."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.profilers import PassThroughProfiler

from steepest.callbacks.landscapes import Directions, LandscapeOptions
from steepest.callbacks.lr_range_test import LRRangeTest, Mode
from steepest.commands.landscape import run_landscape
from steepest.commands.lr_range import Rebuild, TestOnly, run_tests
from steepest.compat import only_note_sigterm
from steepest.diagnostics.common.guards import BatchNormMode
from steepest.diagnostics.landscape.directions import Normalization
from steepest.diagnostics.lr_range.curve import Spacing
from steepest.diagnostics.lr_range.suggestions import Rule
from steepest.optim import OptimizerFactory
from steepest.run.ranks import is_started_by_rank_zero

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
    # Builds the model anew for a seed and an optimizer; set by the command line, which has the options.
    rebuild: Rebuild | None = None
    _agreed = False
    _work: Callable[[], None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Ranks that rank zero started leave the end of the run to it.
        only_note_sigterm(self, is_noted=lambda: not is_started_by_rank_zero())
        if type(self.profiler) is PassThroughProfiler:
            self.profiler = NoProfiler()

    @property
    def log_dir(self) -> str | None:
        """Folder of this run; the first access asks rank zero, so all ranks must take part in it."""
        if not self._agreed:
            self.run_folder = self.strategy.broadcast(self.run_folder)
            self._agreed = True
        return str(self.run_folder) if self.run_folder is not None else None

    def lr_range_test(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        optimizers: list[OptimizerFactory] | None = None,
        seeds: list[int] | None = None,
        mode: Mode = "range",
        factors: tuple[float, float] | None = None,
        rates: tuple[float, float] | None = None,
        steps: int = 100,
        values: int | None = None,
        spacing: Spacing = "exponential",
        smoothing: float = 0.9,
        divergence: float = 2.0,
        stop_ratio: float | None = None,
        rule: Rule = "minimum",
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> LRRangeTest:
        """Train shortly with rising learning rates and suggest one (arXiv 1506.01186), or find the largest stable one.

        Args:
            model: The model.
            train_dataloaders: Training batches, unless `datamodule` has them.
            datamodule: The data.
            optimizers: Names of optimizers, or with options `{class_path: NAME, init_args: {...}}`, to compare; by
                default the chosen one alone.
            seeds: Seeds of initialization, data order and dropout, each with a curve of its own; by default the run's.
            mode: "range" raises the learning rate in each step; "envelope" trains from the same start at each of a few
                learning rates and tells the largest that is stable (every loss finite, the mean of the last ten not
                above the first).
            factors: Range of multiples of each parameter group's own learning rate; [1e-4, 1e3] with mode range.
            rates: Instead, the range of the first group's learning rate; [1e-3, 2] with mode envelope.
            steps: Optimizer steps: of the whole range, or at each learning rate of an envelope; at least 2.
            values: Learning rates of an envelope, at least 2; by default 12.
            spacing: "exponential" (equal ratios) or "linear".
            smoothing: Weight of the past in the moving average of the loss, in [0, 1).
            divergence: Stop when the smoothed loss exceeds l_min + divergence * max(l_0 - l_min, |l_0| / 2).
            stop_ratio: Instead, stop when it exceeds this multiple of the first loss; above 1.
            rule: Whose suggestion counts: steepest, minimum, valley, slide or max_stable (the upper bound).
            ckpt_path: Start from this checkpoint; by default from the initialization.
            weights_only: Whether to refuse a checkpoint that holds more than tensors and plain values.

        Returns:
            What was found, in `curves` or `trials`.

        Raises:
            ValueError: if an option is out of range or contradicts another, or there is nothing to train.
        """
        test = TestOnly(
            mode=mode,
            factors=factors,
            rates=rates,
            steps=steps,
            values=values,
            spacing=spacing,
            seeds=seeds,
            smoothing=smoothing,
            divergence=divergence,
            stop_ratio=stop_ratio,
            rule=rule,
        )
        data = {"train_dataloaders": train_dataloaders, "datamodule": datamodule}
        run_tests(self, model, test, optimizers, self.rebuild, **data, ckpt_path=ckpt_path, weights_only=weights_only)
        return test

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
        if others and directions not in ("checkpoints", "trajectory"):
            raise ValueError(f"--checkpoints belongs to --directions checkpoints or trajectory, not to {directions}")
        if output_dir is not None and Path(output_dir).is_file():
            raise ValueError(f"--output_dir: {output_dir} is a file, not a folder")
        if dimensions is None:
            dimensions = 1 if directions == "checkpoints" and len(others) == 1 else 2
        options = LandscapeOptions(directions, dimensions, normalization, resolution, reach, batch_norm, seed)
        checkpoint = Path(ckpt_path)
        self._work = lambda: run_landscape(self, options, checkpoint, others, batches, animate, output_dir)
        try:
            self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only)
        finally:
            self._work = None
