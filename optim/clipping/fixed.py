"""Clippings with a fixed threshold: of the norm, and of each entry."""

import torch
from torch import Tensor, nn

from steepest.optim.checks import check_number
from steepest.optim.clipping.base import Clipping, Pool, limit_norm
from steepest.optim.registry import CLIPPINGS


@CLIPPINGS.register
def norm(module: nn.Module, max_norm: float = 1.0, per_group: bool = False) -> Clipping:
    """Scale the gradients down to a largest Euclidean norm (arXiv 1211.5063).

    Args:
        module: The model.
        max_norm: Largest norm, above 0. 1 is usual for transformers.
        per_group: Take the norm over each parameter group by itself instead of over all gradients.

    Returns:
        The clipping.

    Raises:
        ValueError: if `max_norm` is out of range.
    """
    check_number("max_norm", max_norm, include_low=False)
    return NormClipping(max_norm, per_group)


@CLIPPINGS.register
def value(module: nn.Module, max_value: float = 1.0) -> Clipping:
    """Limit every entry of the gradients to [-max_value, max_value]; this changes their direction.

    Args:
        module: The model.
        max_value: Largest magnitude of an entry, above 0.

    Returns:
        The clipping.

    Raises:
        ValueError: if `max_value` is out of range.
    """
    check_number("max_value", max_value, include_low=False)
    return ValueClipping(max_value)


class NormClipping(Clipping):
    """See `norm`."""

    def __init__(self, max_norm: float, per_group: bool = False) -> None:
        self.max_norm = max_norm
        self.per_group = per_group

    def clip_pool(self, number: int, pool: Pool, norm: Tensor) -> None:
        """Scale the pool's gradients."""
        limit_norm(pool.gradients, norm, self.max_norm if pool.threshold is None else pool.threshold)


class ValueClipping(Clipping):
    """See `value`."""

    def __init__(self, max_value: float) -> None:
        self.max_value = max_value

    def clip_pool(self, number: int, pool: Pool, norm: Tensor) -> None:
        """Limit the entries of the pool's gradients."""
        limit = self.max_value if pool.threshold is None else pool.threshold
        torch._foreach_clamp_min_(pool.gradients, -limit)
        torch._foreach_clamp_max_(pool.gradients, limit)
