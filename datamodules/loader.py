"""Batches cut from tensors held in memory: the same for every number of processes and every restart."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from steepest.common.seeds import data_seed


class BatchSource(Protocol):
    """What a loader needs of a data set that is more than one plain tensor, such as images with augmentation.

    Its randomness is drawn once per epoch for all samples. So it does not depend on the number of processes, on the
    batch size, or on where in the epoch a run was resumed.
    """

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def draw(self, count: int, generator: torch.Generator, epoch: int) -> Tensor | None:
        """Draw the random parameters of `count` samples in an epoch, one row each (None: nothing is random)."""
        ...

    def gather(self, indices: Tensor, parameters: Tensor | None) -> Any:
        """Return the samples at `indices`, changed by the rows of `parameters`, as one batch: tensors."""
        ...


class TensorSource:
    """A plain tensor as a source of batches, without randomness."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.contiguous()

    def __len__(self) -> int:
        return len(self.tensor)

    def draw(self, count: int, generator: torch.Generator, epoch: int) -> None:
        """Draw nothing."""
        return None

    def gather(self, indices: Tensor, parameters: Tensor | None) -> Tensor:
        """Return the rows at `indices`."""
        return self.tensor.index_select(0, indices)


class TensorLoader:
    """Iterates over batches of tensors held in memory, without worker processes and without touching global randomness.

    With W processes and batch size B, batch t of an epoch is the *global batch* of the W·B samples at places
    t·W·B, ..., (t+1)·W·B - 1 of the epoch's order, and each process takes its contiguous share of it. So two processes
    with batches of 4 see together what one process with batches of 8 sees.

    Every process yields the same number of batches, and each sample is in exactly one of them. For that the last global
    batch, which may be short, is divided into shares that differ by at most one sample; if it has fewer samples than
    there are processes, the global batch before it hands over as many as are missing.

    Each pass is a new epoch with a new order. `state_dict` says where the current pass stands, and after
    `load_state_dict` the next pass goes on from there, bit for bit.

    Args:
        inputs: Tensor whose first dimension counts the samples, or a `BatchSource`.
        targets: Tensor of the same length. None yields the inputs alone instead of pairs.
        batch_size: Samples per batch and process, at least 1.
        shuffle: Whether each epoch has a random order, a function of `seed` and the epoch.
        drop_last: Whether a last, smaller batch is left out. Then every batch has exactly `batch_size` samples.
        seed: Seed of the order and of the source's randomness, at least 0.
        rank: Number of this process, in [0, world_size).
        world_size: Number of processes that share the data.
        progress: Returns the epoch and the number of its batches that are already done. It is asked at the first
            batch of each pass, not when the pass is created, because Lightning creates the first one before it has
            restored its counters. Only the first pass, that of a resumed run, starts inside an epoch; later ones are
            whole, also when a callback makes one of its own in the middle of training. None: the loader counts itself.
        device: Where the source and the targets are, to which each epoch's order and random parameters are moved.

    Raises:
        ValueError: If the sizes do not fit together: see the message.
    """

    def __init__(
        self,
        inputs: Tensor | BatchSource,
        targets: Tensor | None,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[], tuple[int, int]] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.source: BatchSource = TensorSource(inputs) if isinstance(inputs, Tensor) else inputs
        self.targets = targets if targets is None else targets.contiguous()
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.progress = progress
        self.device = device
        self._check()
        self._passes = 0
        self._current = self._next = (0, 0)  # (epoch, batches done), of this pass and at the start of the next one

    def _check(self) -> None:
        samples = len(self.source)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be in [0, {self.world_size}), the number of processes, got {self.rank}")
        if self.targets is not None and len(self.targets) != samples:
            raise ValueError(f"inputs and targets differ in length: {samples} and {len(self.targets)}")
        if self.drop_last and self._global_size > samples:
            raise ValueError(
                f"a batch of {self._global_size} samples ({self.batch_size} on each of {self.world_size} processes) "
                f"is larger than the data set of {samples}; lower batch_size or set drop_last to false"
            )
        if (not self.drop_last and samples < len(self) * self.world_size) or samples == 0:
            raise ValueError(
                f"{samples} samples cannot give each of {self.world_size} processes the same number of batches of at "
                f"most {self.batch_size}, none empty; use another batch_size or fewer processes"
            )

    @property
    def _global_size(self) -> int:
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Return the number of batches of one epoch, the same on every process."""
        batches = len(self.source) / self._global_size
        return math.floor(batches) if self.drop_last else math.ceil(batches)

    def _share(self, batch: int) -> slice:
        """Return the places in the epoch's order of this process's part of a global batch."""
        samples, last = len(self.source), len(self) - 1
        start, stop = batch * self._global_size, (batch + 1) * self._global_size
        if not self.drop_last:
            handover = min(last * self._global_size, samples - self.world_size)  # where the last global batch begins
            start, stop = (handover, samples) if batch == last else (start, min(stop, handover))
        size = stop - start
        return slice(start + size * self.rank // self.world_size, start + size * (self.rank + 1) // self.world_size)

    def __iter__(self) -> Iterator[Any]:
        # A generator function: nothing below runs before the first batch is asked for.
        epoch, done = self._next if self.progress is None else self.progress()
        if self.progress is not None and self._passes:
            done = 0
        self._passes += 1
        self._current, self._next = (epoch, done), (epoch + 1, 0)
        samples = len(self.source)
        generator = torch.Generator().manual_seed(data_seed(self.seed, epoch))
        order = torch.randperm(samples, generator=generator) if self.shuffle else torch.arange(samples)
        parameters = self.source.draw(samples, generator, epoch)
        if self.device is not None:
            # Drawn on the CPU all the same, so that every device sees the same order.
            order = order.to(self.device)
            parameters = None if parameters is None else parameters.to(self.device)
        for batch in range(done, len(self)):
            share = self._share(batch)
            indices = order[share]
            inputs = self.source.gather(indices, None if parameters is None else parameters[share])
            self._current = (epoch, batch + 1)
            yield inputs if self.targets is None else (inputs, self.targets.index_select(0, indices))
        self._current = self._next

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches that were handed out."""
        epoch, batches_done = self._current
        return {"epoch": epoch, "batches_done": batches_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass go on from a saved place (it is empty if the saved epoch's last batch was handed out)."""
        self._current = self._next = (state["epoch"], state["batches_done"])
