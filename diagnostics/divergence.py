"""When a training diverged."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


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
