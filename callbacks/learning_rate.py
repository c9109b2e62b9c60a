"""The learning rates a run really used."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from steepest.callbacks.base import Diagnostic
from steepest.callbacks.charts import Charts


class LearningRateTracker(Diagnostic):
    """Logs the learning rate each parameter group was updated with, at the step of that update.

    Tags: `lr/<name>` with the group's "name"; without names `lr/<Optimizer>` for an only group and `lr/<index>` for
    several. Several optimizers put their class before the index. Other options that a schedule moves are logged as
    `lr/<name>_<option>`.

    Args:
        every_n_steps: Log every so many optimizer steps, and at step 1.
        momentum: Log `lr/<name>_momentum` as well (`momentum`, or the first of `betas`).

    Raises:
        ValueError: if `every_n_steps` is below 1.
    """

    name = "learning_rate"
    group = "lr"
    charts: ClassVar[Mapping[str, Charts]] = {"training": {"learning rate": [r"lr/(?!range_|largest_|.*_momentum$).*"]}}
    logs_seconds = False

    def __init__(self, every_n_steps: int = 50, momentum: bool = False) -> None:
        super().__init__(every_n_steps=every_n_steps, first=True)
        self.momentum = momentum
        self._used: dict[str, float] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Read the rates before the schedule moves on."""
        if self.due_after_step(trainer):
            for stepping, tag, group in _tagged_groups(trainer.optimizers):
                if stepping is optimizer:
                    self._used.update(_values(tag, group, self.momentum))
                    self._used.update({f"{tag}_{name}": value for name, value in _scheduled(trainer, group).items()})

    def measure(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> dict[str, float]:
        """The rates read before the step."""
        used, self._used = self._used, {}
        return used


def _tagged_groups(optimizers: list[Optimizer]) -> Iterator[tuple[Optimizer, str, dict[str, Any]]]:
    seen: Counter[str] = Counter()
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        for index, group in enumerate(optimizer.param_groups):
            if "name" in group:
                label = str(group["name"])
            elif len(optimizer.param_groups) == 1:
                label = kind
            else:
                label = str(index) if len(optimizers) == 1 else f"{kind}_{index}"
            seen[label] += 1
            yield optimizer, f"lr/{label}" if seen[label] == 1 else f"lr/{label}#{seen[label]}", group


def _scheduled(trainer: Trainer, group: dict[str, Any]) -> dict[str, float]:
    """Options of a group, besides the learning rate, that a schedule moves: of schedulers that tell `option_values`."""
    values: dict[str, float] = {}
    for config in trainer.lr_scheduler_configs:
        option_values = getattr(config.scheduler, "option_values", None)
        if option_values is not None:
            for other, options in zip(config.scheduler.optimizer.param_groups, option_values(), strict=False):
                values |= options if other is group else {}
    return values


def _values(tag: str, group: dict[str, Any], momentum: bool) -> dict[str, float]:
    values = {tag: float(group["lr"])} if "lr" in group else {}
    beta = group["momentum"] if "momentum" in group else group.get("betas", (None,))[0]
    if momentum and beta is not None:
        values[f"{tag}_momentum"] = float(beta)
    return values
