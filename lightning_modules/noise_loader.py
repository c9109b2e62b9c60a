"""Batches of random vectors, the only data that an objective without data needs."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from steepest.common.seeds import data_seed


class NoiseLoader:
    """Yields independent normal vectors that depend on seed, epoch, batch and sample alone.

    Ranks draw the same global batch and take their parts of it, so that they share what one process would have alone.

    Args:
        scale: Standard deviation of every coordinate, shape (dimensions,).
        batch_size: Vectors per batch and process, at least 1.
        batches: Batches in an epoch, at least 1.
        seed: At least 0.
        rank: Number of this process.
        world_size: Number of processes.
        progress: Returns the epoch and how many of its batches are done. Asked at the first batch of a pass, since
            Lightning makes the first pass before it has restored its counters; only that pass starts inside an epoch.
    """

    def __init__(
        self,
        scale: Tensor,
        batch_size: int,
        batches: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.scale = scale
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.progress = progress
        self._passes = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.batches

    def __iter__(self) -> Iterator[Tensor]:
        # A generator function: nothing below runs before the first batch is asked for.
        epoch, done = (0, 0) if self.progress is None else self.progress()
        done = 0 if self._passes else done
        self._passes += 1
        for batch in range(done, self.batches):
            yield self._vectors(epoch, batch)

    def _vectors(self, epoch: int, batch: int) -> Tensor:
        shape = self.batch_size * self.world_size, len(self.scale)
        if not bool(self.scale.any()):
            return torch.zeros(self.batch_size, len(self.scale))
        generator = torch.Generator().manual_seed(data_seed(self.seed, epoch, batch, words=2))
        start = self.rank * self.batch_size
        return torch.randn(shape, generator=generator)[start : start + self.batch_size] * self.scale

    # The position follows from `progress`; a loader without these two is started over by whoever seeds the run.
    def state_dict(self) -> dict[str, int]:
        """Nothing: see `progress`."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to take over."""
