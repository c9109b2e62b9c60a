"""Minimizing a function of a few weights whose answer is known."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from steepest.common.run import progress_of, ranks_of, run_seed
from steepest.lightning_modules.base import BaseModule
from steepest.lightning_modules.noise_loader import NoiseLoader
from steepest.lightning_modules.objectives.base import Objective
from steepest.optim import ClippingFactory, OptimizerFactory, OptionSchedule, ScheduleFactory


class ToyObjective(BaseModule):
    """Minimization of a function with known minima, with or without noise in the gradients; it needs no data.

    Training records loss, gap (to the smallest value) and distance (to the nearest minimum); so do validation and test,
    which look at the same function. The batches are the noise: `batch_size` vectors, whose mean is added to the
    gradient and leaves loss and curvature as they are. Diagnostics that look at batches therefore see what they would
    in training: per-sample gradients of known covariance.

    Args:
        objective: The function, see `steepest list models`; ours or by import path.
        noise: Standard deviation of the gradient's noise for a single sample, one number for all weights or one for
            each; its covariance is diagonal, and that of a step is 1 / `batch_size` of it.
        batch_size: Noise vectors per step and process, at least 1; GradientNoiseScale needs 4.
        steps_per_epoch: Steps between two validations, at least 1.
        optimizer: Factory from the registry; None takes AdamW.
        schedule: Learning-rate schedule from the registry; None keeps the rate constant.
        clipping: Gradient clipping from the registry; None for none.
        option_schedules: Schedules of other options of the optimizer, such as momentum, by option.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        objective: Objective,
        noise: float | Sequence[float] = 0.0,
        batch_size: int = 8,
        steps_per_epoch: int = 100,
        optimizer: OptimizerFactory | None = None,
        schedule: ScheduleFactory | None = None,
        clipping: ClippingFactory | None = None,
        option_schedules: Mapping[str, OptionSchedule] | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, clipping, option_schedules)
        for name, value in (("batch_size", batch_size), ("steps_per_epoch", steps_per_epoch)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.save_hyperparameters(ignore=["objective", "optimizer", "schedule", "clipping", "option_schedules"])
        self.objective = objective
        self.noise_scale = _noise_scale(noise, objective.dimensions)
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        # A run that diverges says NaN, as any other value.
        names = ("loss", "gap", "distance")
        self.metrics = {
            stage: {name: MeanMetric(nan_strategy="disable") for name in names} for stage in ("val", "test")
        }

    def forward(self) -> Tensor:
        """The function at the weights."""
        return self.objective()

    def diagnostic_loss(self, batch: Tensor) -> Tensor:
        """The training loss on a batch of noise vectors, a scalar, without recording anything."""
        loss, weights = self(), self.objective.weight.flatten()
        # Adds nothing to the loss and the mean of the batch to its gradient.
        return loss + (batch.mean(0) * (weights - weights.detach())).sum()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Loss of one step; records loss, gap and distance at the weights before it."""
        loss = self.diagnostic_loss(batch)
        self.record(loss=loss, gap=loss.detach() - self.objective.minimum_value, distance=self._distance())
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Loss, gap and distance at the weights."""
        self._evaluate("val")

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """The same once more."""
        self._evaluate("test")

    def train_dataloader(self) -> NoiseLoader:
        """The noise of every step."""
        rank, world_size = ranks_of(self._trainer)
        progress = progress_of(self._trainer)
        return NoiseLoader(
            self.noise_scale, self.batch_size, self.steps_per_epoch, run_seed(), rank, world_size, progress
        )

    def val_dataloader(self) -> list[Tensor]:
        """A single batch without noise."""
        return [torch.zeros(1, self.objective.dimensions)]

    def test_dataloader(self) -> list[Tensor]:
        """A single batch without noise."""
        return self.val_dataloader()

    def _distance(self) -> Tensor:
        return self.objective.distance(self.objective.weight.detach().flatten())

    def _evaluate(self, stage: str) -> None:
        loss = self().detach()
        values = {"loss": loss, "gap": loss - self.objective.minimum_value, "distance": self._distance()}
        for name, value in values.items():
            self.metrics[stage][name].update(value)


def _noise_scale(noise: float | Sequence[float], dimensions: int) -> Tensor:
    scale = [float(noise)] * dimensions if isinstance(noise, (int, float)) else list(map(float, noise))
    if len(scale) != dimensions or not all(0 <= value < math.inf for value in scale):
        raise ValueError(f"noise must be a number of at least 0, or one for each of {dimensions} weights, not {noise}")
    return torch.tensor(scale)
