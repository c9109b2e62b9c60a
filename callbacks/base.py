"""The base of all diagnostic callbacks: when to measure, what to do when it fails, where results go."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from steepest.callbacks.cadence import Cadence, steps_until_affordable
from steepest.callbacks.charts import Charts, write_charts
from steepest.callbacks.probe import MeasurementUnavailableError
from steepest.diagnostics.common.artifacts import render, save_figure, save_json

__all__: list[str] = []  # a base, no callback that can be chosen

Result = TypeVar("Result")


class Diagnostic(Callback):
    """Calls `measure` when it is due and writes the scalars it returns at the true optimizer step.

    A subclass sets `name` and overrides `measure`, which runs on every rank after the optimizer step, usually inside
    `steepest.callbacks.probe.probe`. A measurement that fails on any rank is left out on all of them with one warning,
    and training continues. Scalars that are not finite are left out: a gap in the curve, never a NaN.

    Collectives: `measure` is called on all ranks alike and may use `reduce_mean` and `reduce_max`. Work that can fail
    on one rank alone belongs into `with self.together(trainer):` before them, or the other ranks would wait for ever.

    Args:
        every_n_steps: Measure every so many optimizer steps (accumulated micro-batches count once).
        every_n_epochs: Measure at the last step of every n-th epoch.
        at_steps: Measure at these optimizer steps, counted from 1.
        max_overhead: Largest share of the training time to spend, such as 0.02; the next measurement is put off until
            it fits. None measures whenever due.
        strict: Raise the error of a failed measurement instead of warning.
        first: Measure at step 1 as well (with `every_n_steps`).

    Attributes:
        name: Short name, of its own scalars (`diagnostics/<name>_seconds`).
        group: First part of the tags of its figures, the same as that of its scalars.
        charts: Scalars that belong together; see `steepest.callbacks.charts`.
        total_seconds: Time spent on this diagnostic so far, earlier parts of a resumed run included.
        run_folder: The run's folder, or None if there is no logger with a folder.

    Raises:
        ValueError: if not exactly one cadence is given, or a number is out of range.
    """

    name: ClassVar[str] = "diagnostic"
    group: ClassVar[str] = "diagnostics"
    charts: ClassVar[Mapping[str, Charts]] = {}
    logs_seconds: ClassVar[bool] = True

    def __init__(
        self,
        *,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        at_steps: Sequence[int] | None = None,
        max_overhead: float | None = None,
        strict: bool = False,
        first: bool = False,
    ) -> None:
        if max_overhead is not None and not 0.0 < max_overhead < 1.0:
            raise ValueError(f"max_overhead is a share of the training time in (0, 1), got {max_overhead}")
        self.cadence = Cadence(every_n_steps, every_n_epochs, at_steps, first)
        self.max_overhead = max_overhead
        self.strict = strict
        self.total_seconds = 0.0
        self.run_folder: Path | None = None
        self._next_step = 1
        self._not_before = 0
        self._last_step = 0
        self._steps_per_batch = 1
        self._seconds = 0.0
        self._clock = (0.0, 0.0, 0)
        self._warned: set[str] = set()

    def measure(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> dict[str, float]:
        """Measure and return scalars by tag, such as "sharpness/batch"; called on every rank when due."""
        raise NotImplementedError

    # --- when -------------------------------------------------------------------------------------------------------

    def due_after_step(self, trainer: Trainer) -> bool:
        """Whether `measure` will be called after the optimizer step that is being taken; for hooks around the step."""
        # Several optimizers (under manual optimization) each take a step in a batch: sample all of them or none.
        step = (trainer.global_step // self._steps_per_batch + 1) * self._steps_per_batch
        return step >= self._next_step or self._epoch_due(trainer, step)

    def due_after_step_or_next(self, trainer: Trainer) -> bool:
        """Whether `measure` will be called after the optimizer step that is being taken or after the one behind it."""
        step = (trainer.global_step // self._steps_per_batch + 1) * self._steps_per_batch
        if step + self._steps_per_batch >= self._next_step:
            return True
        return self._epoch_due(trainer, step) or self.epoch_due_next(trainer)

    def epoch_due_next(self, trainer: Trainer) -> bool:
        """Whether the batches after this one hold the last step of an epoch that is measured at its end."""
        if self.cadence.every_n_epochs is None or not self.cadence.epoch_due(trainer.current_epoch):
            return False
        left = trainer.num_training_batches - trainer.fit_loop.epoch_loop.batch_idx - 1
        return 0 < left <= trainer.accumulate_grad_batches

    def _epoch_due(self, trainer: Trainer, step: int) -> bool:
        if self.cadence.every_n_epochs is None or not trainer.is_last_batch or step < self._not_before:
            return False
        return self.cadence.epoch_due(trainer.current_epoch) and step != self._last_step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies that split the parameters; find the run's folder (all ranks take part in that)."""
        if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)):
            raise ValueError(
                f"{type(self).__name__} needs whole parameters on every rank, which {type(trainer.strategy).__name__} "
                "splits: use the strategy ddp, or leave this callback out"
            )
        # Without a logger Lightning's log_dir is the working directory, where nobody expects our files.
        folder = trainer.log_dir if trainer.loggers else None
        self.run_folder = None if folder is None else Path(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the first step to measure at, which is a later one if the run was resumed."""
        first = next(callback for callback in trainer.callbacks if isinstance(callback, Diagnostic))  # type: ignore
        if first is self and trainer.is_global_zero:  # one layout for all of them
            write_charts(trainer, pl_module)
        self._last_step = trainer.global_step
        self._steps_per_batch = max(1, len(trainer.optimizers))
        self._next_step = self.cadence.next_step(trainer.global_step)
        self._clock = (time.perf_counter(), self.total_seconds, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if it is due."""
        step = trainer.global_step
        if step < self._next_step and not self._epoch_due(trainer, step):
            return
        self._last_step = step
        with self.timed():
            scalars = self.attempt(trainer, lambda: self.measure(trainer, pl_module, batch))
        seconds, self._seconds = self._seconds, 0.0
        if scalars is not None:
            timing = {f"diagnostics/{self.name}_seconds": seconds} if self.logs_seconds else {}
            self.write_scalars(trainer, {**scalars, **timing}, step)
        self._not_before = self._earliest_next_step(trainer, step, seconds)
        self._next_step = self.cadence.next_step(max(step, self._not_before - 1))

    def _earliest_next_step(self, trainer: Trainer, step: int, seconds: float) -> int:
        if self.max_overhead is None:
            return 0
        start, spent_before, first_step = self._clock
        spent = self.total_seconds - spent_before
        trained = time.perf_counter() - start - spent
        steps = steps_until_affordable(spent, seconds, self.max_overhead, trained, step - first_step)
        # Clocks differ between ranks, and a measurement needs all of them: rank zero's decides.
        return trainer.strategy.broadcast(step + steps)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time spent inside as this diagnostic's own."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._seconds += seconds
            self.total_seconds += seconds

    # --- failures and ranks -----------------------------------------------------------------------------------------

    def attempt(self, trainer: Trainer, work: Callable[[], Result]) -> Result | None:
        """Run `work` on every rank; if it fails on any, warn once and return None everywhere (or raise if strict)."""
        with self.forgiven(trainer), self.together(trainer):
            return work()
        return None

    @contextmanager
    def forgiven(self, trainer: Trainer) -> Iterator[None]:
        """Warn once about an error raised inside and go on (or raise it if strict)."""
        try:
            yield
        except Exception as error:
            if self.strict:
                raise
            message = (
                str(error)
                if isinstance(error, MeasurementUnavailableError)
                else f"a measurement at step {trainer.global_step} failed and is left out, training continues "
                f"({type(error).__name__}: {_first_line(error)})"
            )
            self.warn_once(message, kind=type(error).__name__)

    @contextmanager
    def together(self, trainer: Trainer) -> Iterator[None]:
        """Raise on every rank if the work inside raised on any; the ranks agree on that when it ends."""
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        failed = torch.tensor([float(error is not None)], device=trainer.strategy.root_device)
        if error is not None or trainer.world_size > 1:
            failed = self.reduce_max(trainer, failed)
        if error is not None:
            raise error
        if trainer.world_size > 1 and failed.item() > 0:
            raise RuntimeError("it failed on another rank")

    def warn_once(self, message: str, kind: str | None = None) -> None:
        """Warn on rank zero, once for each `kind` (by default once for each message)."""
        if (kind or message) not in self._warned:
            self._warned.add(kind or message)
            rank_zero_warn(f"{type(self).__name__}: {message}")

    def reduce_mean(self, trainer: Trainer, values: Tensor) -> Tensor:
        """Mean over the ranks; every rank must call it."""
        return self._reduce(trainer, values, "mean")

    def reduce_max(self, trainer: Trainer, values: Tensor) -> Tensor:
        """Largest value over the ranks, entry by entry; every rank must call it."""
        return self._reduce(trainer, values, "max")

    def _reduce(self, trainer: Trainer, values: Tensor, operation: str) -> Tensor:
        if trainer.world_size == 1:
            return values
        reduced = trainer.strategy.reduce(values.clone(), reduce_op=operation)
        assert isinstance(reduced, Tensor)
        return reduced

    # --- results ----------------------------------------------------------------------------------------------------

    def write_scalars(self, trainer: Trainer, scalars: dict[str, float], step: int) -> None:
        """Write the finite ones of these scalars to every logger at this step; other ranks than zero do nothing.

        Lightning's `self.log` is not used: from a callback that measures now and then it repeats stale values. (Nor can
        this be called `log`: Lightning replaces a callback's attribute of that name.)
        """
        finite = {tag: value for tag, value in scalars.items() if math.isfinite(value)}
        if trainer.is_global_zero and finite:
            for logger in trainer.loggers:
                logger.log_metrics(finite, step=step)

    def write_figure(self, trainer: Trainer, name: str, figure: Figure, step: int) -> None:
        """Write `figures/<name>.png` and `.svg` into the run's folder, and the figure to TensorBoard."""
        if not trainer.is_global_zero:
            return
        experiments = [getattr(logger, "experiment", None) for logger in trainer.loggers]
        writers = [experiment for experiment in experiments if isinstance(experiment, SummaryWriter)]
        if self.run_folder is not None:
            image = save_figure(figure, self.run_folder / "figures", name)
        elif writers:
            image = render(figure)
        else:  # fast_dev_run, or no logger: nobody would see it
            return
        for writer in writers:
            writer.add_image(f"{self.group}/{name}", image, global_step=step, dataformats="HWC")

    def write_json(self, trainer: Trainer, name: str, content: Any) -> None:
        """Write `<name>.json` into the run's folder."""
        if trainer.is_global_zero and self.run_folder is not None:
            save_json(content, self.run_folder / f"{name}.json")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; a subclass adds its own entries."""
        return {"total_seconds": self.total_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.total_seconds = state_dict["total_seconds"]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
