"""The first samples of training, held for measurements that are to compare over a run."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor

from steepest.diagnostics.common.batches import first_samples


class HeldBatches:
    """The first samples of the first training batches of every rank, kept on the CPU and in checkpoints.

    Args:
        samples: Samples of each batch, at least 1.
        batches: How many batches, at least 1.

    Raises:
        ValueError: if a number is below 1.
    """

    def __init__(self, samples: int, batches: int = 1) -> None:
        for name, value in (("probe_batch", samples), ("probe_batches", batches)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.samples = samples
        self.batches = batches
        self._held: list[list[Any]] = []  # by batch and rank
        self._own: list[Any] | None = None

    @property
    def complete(self) -> bool:
        """Whether all batches are there."""
        return len(self._held) >= self.batches

    def offer(self, trainer: Trainer, batch: Any) -> None:
        """Hold the first samples of a batch unless complete; all ranks must call it alike."""
        if not self.complete:
            part = move_data_to_device(first_samples(batch, self.samples), torch.device("cpu"))
            # Every rank keeps all parts: one rank writes the checkpoint for all.
            self._held.append(_of_all_ranks(trainer, _copied(part)))
            self._own = None

    def own(self, trainer: Trainer, pl_module: LightningModule) -> list[Any]:
        """This rank's batches, on its device."""
        if self._own is None:
            self._own = []
            for parts in self._held:
                # A resumed run may have other ranks than the one that held them.
                mine = parts[trainer.global_rank :: trainer.world_size] or [parts[trainer.global_rank % len(parts)]]
                self._own += [move_data_to_device(part, pl_module.device) for part in mine]
        return self._own

    def of_all_ranks(self) -> list[Any]:
        """The batches of all ranks, on the CPU, the same on every rank."""
        return [part for parts in self._held for part in parts]

    def state_dict(self) -> list[list[Any]]:
        """All batches of all ranks."""
        return [list(parts) for parts in self._held]

    def load_state_dict(self, state: list[list[Any]]) -> None:
        """Take over what `state_dict` returned."""
        self._held, self._own = [list(parts) for parts in state], None


def _copied(part: Any) -> Any:
    """The part in memory of its own: the loader may use the batch's again."""
    if isinstance(part, Tensor):
        return part.clone()
    if isinstance(part, dict):
        return {key: _copied(value) for key, value in part.items()}
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(_copied(value) for value in part))
    if isinstance(part, (list, tuple)):
        return type(part)(_copied(value) for value in part)
    return part


def _of_all_ranks(trainer: Trainer, part: Any) -> list[Any]:
    if trainer.world_size == 1:
        return [part]
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, part)
    return parts
