"""Batches for timing steps: made once, given over and over."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor


class MarkedBatches:
    """Four batches of ten classes in turn, one more than `steps`; notes the CPU time when each step begins."""

    def __init__(self, shape: tuple[int, ...], size: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = [
            (torch.randn(size, *shape, generator=generator), torch.randint(0, 10, (size,), generator=generator))
            for _ in range(4)
        ]
        self.steps = steps
        self.marks: list[float] = []

    def __len__(self) -> int:
        return self.steps + 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.marks = []
        for step in range(self.steps + 1):
            self.marks.append(time.process_time())
            yield self.batches[step % len(self.batches)]
