"""Watches how much of the gradient is noise."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import Optimizer

from steepest.callbacks.charts import Charts
from steepest.callbacks.loss_scale import gradient_scale, loss_scale
from steepest.callbacks.probe import MeasurementUnavailableError, diagnostic_loss, probe
from steepest.callbacks.reporting import HistoryDiagnostic
from steepest.common.history import History
from steepest.diagnostics.common.batches import batch_size, first_samples
from steepest.diagnostics.common.guards import BatchNormMode
from steepest.diagnostics.noise_scale import figures as noise_scale_figures
from steepest.diagnostics.noise_scale.noise_scale import (
    FIELDS,
    NoiseSample,
    NoiseScale,
    NoiseScaleAverage,
    noise_sample_of_sums,
    numbers_of,
)
from steepest.diagnostics.noise_scale.parts import PartRecorder, equal_parts, gradients_of_parts, square_norm
from steepest.diagnostics.updates.recorders import optimizer_parameters


class GradientNoiseScale(HistoryDiagnostic[PartRecorder, NoiseScale]):
    """The gradient noise scale (arXiv 1812.06162): below this batch size, larger batches save steps in proportion.

    It compares the gradients of parts of a batch with their mean. With several ranks or accumulated micro-batches these
    are the run's own gradients, at no further pass; otherwise the batch is cut into parts before the step, which costs
    about as much as one. Losses must be means over samples, and a sample is an entry along the batch's first dimension
    (a sequence of a language model). The figure `noise_scale` and `noise_scale.json` appear at the end of the run (a
    failed one too) and at most once a minute at the end of an epoch.

    Scalars: `noise/scale` with its 95 % interval `noise/scale_low` and `noise/scale_high`, `noise/gradient_square` and
    `noise/trace` (the averages it is the ratio of), `noise/effective_count` (of measurements in them),
    `noise/half_difference` (|g1 - g2|²/2, the mean over pairs of this step's parts). Of a batch cut into parts they are
    called `noise/<mode>_scale` and so on, by how batch normalization was set. What is undefined is a gap.

    Args:
        every_n_steps: Measure every so many optimizer steps; set it to None to use one of the next two. With several
            ranks or micro-batches 1 is affordable.
        every_n_epochs: Measure at the last step of every n-th epoch.
        at_steps: Measure at these optimizer steps, counted from 1.
        source: "training" uses the run's own gradients, "probe" cuts the batch of the step into parts, "auto" prefers
            the first where it is possible (several ranks or micro-batches, automatic optimization).
        splits: Parts to cut the batch into, on each rank, at least 2.
        probe_batch: Samples of the batch to cut; None takes all.
        batch_norm: Batch normalization of a probe by the statistics of each part, or by the running ones.
        decay: Weight of a measurement relative to the next one, in (0, 1]; 0.95 lets about 39 measurements count. Where
            gradients shrink faster than that, old ones prevail and a smaller decay is better.
        figures: Draw the figure; without it only scalars and the JSON file are written.
        max_overhead: Largest share of the training time to spend; None measures whenever due.
        strict: Raise the error of a failed measurement instead of warning.

    Raises:
        ValueError: if an argument is out of range, or with "training" at the start of a run that has a single gradient
            a step.
    """

    name = "noise_scale"
    group = "noise"
    charts: ClassVar[Mapping[str, Charts]] = {
        "gradient noise": {"noise scale and its interval": [r"noise/((batch|running)_)?scale(_low|_high)?"]}
    }

    def __init__(
        self,
        every_n_steps: int | None = 20,
        every_n_epochs: int | None = None,
        at_steps: Sequence[int] | None = None,
        source: Literal["auto", "training", "probe"] = "auto",
        splits: int = 4,
        probe_batch: int | None = None,
        batch_norm: BatchNormMode = "batch",
        decay: float = 0.95,
        figures: bool = True,
        max_overhead: float | None = None,
        strict: bool = False,
    ) -> None:
        if source not in ("auto", "training", "probe"):
            raise ValueError(f"source must be 'auto', 'training' or 'probe', got {source!r}")
        if batch_norm not in ("batch", "running"):
            raise ValueError(f"batch_norm must be 'batch' or 'running', got {batch_norm!r}")
        if splits < 2:
            raise ValueError(f"splits must be at least 2, got {splits}")
        if probe_batch is not None and probe_batch < splits:
            raise ValueError(f"probe_batch must be None or at least splits={splits}, got {probe_batch}")
        super().__init__(
            History(FIELDS),
            figures,
            every_n_steps=every_n_steps,
            every_n_epochs=every_n_epochs,
            at_steps=at_steps,
            max_overhead=max_overhead,
            strict=strict,
        )
        self.source = source
        self.splits = splits
        self.probe_batch = probe_batch
        self.batch_norm: BatchNormMode = batch_norm
        self.average = NoiseScaleAverage(decay)
        self._size: int | None = None
        self._collected: tuple[Tensor, list[int]] | None = None
        self._divided = False
        self._probed: NoiseSample | None = None
        self._probed_step = -1

    def summary(self) -> NoiseScale:
        """What the measurements so far say, for tables at the end of a run."""
        return self.average.result()

    # --- the run's own gradients ------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a source that this run does not have."""
        super().on_train_start(trainer, pl_module)
        if self.source == "training" and not self._own_gradients(trainer, pl_module):
            raise ValueError(
                "source='training' needs several ranks or trainer.accumulate_grad_batches above 1, and automatic "
                "optimization: use source='probe'"
            )

    def _own_gradients(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        if self.source == "probe" or not pl_module.automatic_optimization:
            return False
        return trainer.world_size * trainer.accumulate_grad_batches > 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Listen to the backward passes of a step that is due, or probe its batch."""
        if self._recorder is None:
            due = self.due_after_step(trainer)
            # That a step is the last of an epoch is known too late if it has several micro-batches.
            if not due and not (trainer.accumulate_grad_batches > 1 and self.cadence.epoch_due(trainer.current_epoch)):
                return
            if not self._own_gradients(trainer, pl_module):
                if due and self._probed_step != trainer.global_step:
                    # Before the step: afterwards the batch is not a fresh sample any more, its gradient has been used.
                    self._probed_step = trainer.global_step
                    with self.timed():
                        self._probed = self.attempt(trainer, lambda: self._probe_sample(trainer, pl_module, batch))
                return
            with self.timed():
                named = [pair for opt in trainer.optimizers for pair in optimizer_parameters(pl_module, opt)]
                self._recorder = PartRecorder([parameter for _, parameter in named])
        self._size = batch_size(batch)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close a part."""
        if self._recorder is not None:
            with self.timed():
                self._recorder.end_part(self._size or 0)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Compare the parts with the gradient of the step."""
        if self._recorder is None:
            return
        with self.timed():
            recorder, self._recorder = self._recorder, None
            recorder.remove()
            self._divided = recorder.divided
            gradients = [p.grad for _, p in optimizer_parameters(pl_module, optimizer) if p.grad is not None]
            if not recorder.squares or not gradients:
                return
            # The sum of this rank's parts, each divided by `accumulate_grad_batches`, averaged over the ranks.
            accumulated = trainer.accumulate_grad_batches
            mean_factor = accumulated / len(recorder.squares) / gradient_scale(trainer, optimizer)
            squares = torch.stack(recorder.squares) * (accumulated / loss_scale(trainer)) ** 2
            mean = square_norm(gradients).to(squares) * mean_factor**2
            self._collected = torch.cat([squares, mean[None]]), recorder.sizes

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if it is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._collected = None

    # --- measuring --------------------------------------------------------------------------------------------------

    def measure(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> dict[str, float]:
        """Take this step's sample into the average; return what it says now."""
        if self._own_gradients(trainer, pl_module):
            sample, prefix = self._training_sample(trainer), "noise/"
        else:
            sample, prefix = self._probed, f"noise/{self.batch_norm}_"
            self._probed = None
        if sample is None:  # a warning says so
            return {}
        if not (math.isfinite(sample.gradient_square) and math.isfinite(sample.trace)):
            self.warn_once(f"the gradient at step {trainer.global_step} is not finite and is left out", "nonfinite")
            return {}
        self.average.add(sample)
        result = self.average.result()
        self.history.add(trainer.global_step, numbers_of(sample, result))
        scalars = {
            "scale": result.scale,
            "scale_low": result.low,
            "scale_high": result.high,
            "gradient_square": result.gradient_square,
            "trace": result.trace,
            "effective_count": result.effective_count,
            "half_difference": sample.half_difference,
        }
        return {prefix + name: value for name, value in scalars.items()}

    def _training_sample(self, trainer: Trainer) -> NoiseSample:
        with self.together(trainer):
            if self._divided:
                raise MeasurementUnavailableError(
                    "a parameter is shared between activation checkpoints, whose gradients arrive one by one: use "
                    "source='probe'"
                )
            if self._collected is None:
                raise MeasurementUnavailableError(f"no gradient was seen at step {trainer.global_step}")
            squares, sizes = self._collected
            if 0 in sizes:
                raise MeasurementUnavailableError(
                    "the batch holds no tensor from which its number of samples can be read"
                )
        return self._sample(trainer, squares[:-1], squares[-1], sizes)

    def _probe_sample(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> NoiseSample:
        with self.together(trainer):
            try:
                chosen = batch if self.probe_batch is None else first_samples(batch, self.probe_batch)
                parts = equal_parts(chosen, self.splits)
            except ValueError as error:
                raise MeasurementUnavailableError(str(error)) from error
            parameters = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
            with probe(trainer, pl_module, batch, batch_norm=self.batch_norm):
                losses = [partial(diagnostic_loss, pl_module, part) for part in parts]
                squares, total = gradients_of_parts(losses, parameters)
            torch._foreach_div_(total, len(parts))
        if trainer.world_size > 1:
            total = [self.reduce_mean(trainer, torch.cat([gradient.flatten() for gradient in total]))]
        return self._sample(trainer, squares, square_norm(total).to(squares), [batch_size(parts[0]) or 0] * len(parts))

    def _sample(self, trainer: Trainer, squares: Tensor, mean_square: Tensor, sizes: list[int]) -> NoiseSample:
        # One reduction and one transfer: sums over this rank's parts, and the mean gradient all ranks know already.
        own = torch.tensor(
            [len(sizes), sum(1 / size for size in sizes), sum(sizes)], dtype=squares.dtype, device=squares.device
        )
        sums = self.reduce_mean(trainer, torch.cat([squares.sum()[None], own, mean_square[None]])).tolist()
        square_sum, parts, inverse_sizes, samples = (trainer.world_size * value for value in sums[:4])
        if parts < 1.5:
            raise MeasurementUnavailableError(
                f"step {trainer.global_step} had one gradient only, from which its noise cannot be estimated"
            )
        return noise_sample_of_sums(square_sum, sums[4], parts, inverse_sizes, samples)

    # --- figures and files ------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the figure and the file; say so if there is no result."""
        super().on_train_end(trainer, pl_module)
        if len(self.history) and math.isnan(self.summary().scale):
            rank_zero_info(f"{type(self).__name__}: the noise scale is {self.summary().verdict}")

    def stop_recording(self) -> None:
        """Take the hooks off, and forget what they noted."""
        super().stop_recording()
        self._collected, self._probed, self._probed_step = None, None, -1

    def draw(self, last: NoiseScale, step: int) -> Iterator[tuple[str, Figure, int]]:
        """The noise scale over the run."""
        yield "noise_scale", noise_scale_figures.noise_scale(last, self.history), step

    def report(self, last: NoiseScale) -> dict[str, Any]:
        """What the average says, and the history."""
        numbers = dataclasses.asdict(last)
        return {"unit": "samples", "verdict": last.verdict, **numbers, "history": self.history.table()}

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The averages and the history."""
        return {**super().state_dict(), "average": self.average.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a resumed run's averages."""
        super().load_state_dict(state_dict)
        self.average.load_state_dict(state_dict["average"])
