"""Cutting a batch of any nesting down to its first samples."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def batch_size(batch: Any) -> int | None:
    """The length of the first dimension of the first tensor found in `batch`; None if it holds no such tensor."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim > 0 else None
    if isinstance(batch, Mapping):
        batch = tuple(batch.values())
    if isinstance(batch, (list, tuple)):
        sizes = (batch_size(item) for item in batch)
        return next((size for size in sizes if size is not None), None)
    return None


def first_samples(batch: Any, count: int) -> Any:
    """The same batch with its first `count` samples only (views, no copies).

    Args:
        batch: Tensors with the samples along the first dimension, nested in lists, tuples (named ones too) and
            mappings. Tensors of another length, and other objects, are passed on whole.
        count: Number of samples to keep, at least 1.

    Raises:
        ValueError: if `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"the number of samples must be at least 1, got {count}")
    size = batch_size(batch)
    return batch if size is None or size <= count else _cut(batch, size, count)


def _cut(batch: Any, size: int, count: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[:count] if batch.ndim > 0 and batch.shape[0] == size else batch
    if isinstance(batch, Mapping):
        return {key: _cut(value, size, count) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        items = [_cut(item, size, count) for item in batch]
        if hasattr(batch, "_fields"):  # a named tuple takes its fields one by one
            return type(batch)(*items)
        return type(batch)(items)
    return batch


def first_divergence(
    steps: Sequence[int], losses: Sequence[Tensor], bound: float | None = None
) -> tuple[int, float] | None:
    """The first step whose training loss is not finite or above a bound; one transfer from the device.

    Args:
        steps: Optimizer steps, rising.
        losses: The loss at each of them, tensors of one element on one device.
        bound: Largest loss of a training that has not diverged; None takes every finite one.

    Returns:
        Step and loss, or None if all are good.
    """
    if not losses:
        return None
    values = torch.stack([loss.detach().float().reshape(()) for loss in losses]).tolist()
    for step, value in zip(steps, values, strict=True):
        if not math.isfinite(value) or (bound is not None and value > bound):
            return step, value
    return None
