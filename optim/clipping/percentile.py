"""AutoClip: the threshold is a percentile of the gradient norms seen so far."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steepest.optim.checks import check_number
from steepest.optim.clipping.base import Clipping, Pool, limit_norm
from steepest.optim.registry import CLIPPINGS


@CLIPPINGS.register
def autoclip(module: nn.Module, percentile: float = 10.0, window: int = 1000, per_group: bool = False) -> Clipping:
    """Scale the gradients down to a percentile of the norms of the last steps (AutoClip, arXiv 2007.14469).

    The present norm belongs to the history; one that is not finite is left out of it. A parameter group's own "clip" is
    a fixed largest norm.

    Args:
        module: The model.
        percentile: In [0, 100]: 0 is the smallest norm so far, 100 never clips. The paper takes 10.
        window: Number of norms that are kept, at least 1. The paper keeps all; a window follows the run and has a fixed
            price, and 1000 norms give every percentile well.
        per_group: Keep a history for each parameter group and clip it by itself.

    Returns:
        The clipping; its history is part of its state.

    Raises:
        ValueError: if an option is out of range.
    """
    check_number("percentile", percentile, high=100.0, include_high=True)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ValueError(f"window must be a whole number of steps, at least 1, not {window!r}")
    return PercentileClipping(percentile, window, per_group)


class PercentileClipping(Clipping):
    """See `autoclip`."""

    def __init__(self, percentile: float, window: int, per_group: bool = False) -> None:
        self.percentile = percentile
        self.window = window
        self.per_group = per_group
        self._histories: dict[int, History] = {}

    def clip_pool(self, number: int, pool: Pool, norm: Tensor) -> None:
        """Note the pool's norm and scale its gradients."""
        threshold: float | Tensor | None = pool.threshold
        if threshold is None:
            if number not in self._histories:
                self._histories[number] = History(self.window, norm)
            history = self._histories[number]
            history.append(norm)
            threshold = history.percentile(self.percentile)
        limit_norm(pool.gradients, norm, threshold)

    def state_dict(self) -> dict[Any, Any]:
        """The history of every pool, by its number."""
        return {number: (history.norms, history.count) for number, history in self._histories.items()}

    def load_state_dict(self, state: Mapping[Any, Any]) -> None:
        """Take up saved histories."""
        self._histories = {}
        for number, (norms, count) in state.items():
            if len(norms) != self.window:
                raise ValueError(f"the saved history of gradient norms has {len(norms)} places, not {self.window}")
            history = self._histories[number] = History(self.window, norms)
            history.norms, history.count = norms.clone(), count.clone()


class History:
    """The last norms, in a ring on their device, so that nothing waits for the device.

    Args:
        window: Number of places.
        like: A tensor of the type and on the device of the norms.

    Attributes:
        norms: The norms; NaN where there is none yet.
        count: Number of norms so far, a whole-number scalar tensor.
    """

    def __init__(self, window: int, like: Tensor) -> None:
        self.norms = like.new_full((window,), torch.nan)
        self.count = torch.zeros((), dtype=torch.int64, device=like.device)

    def append(self, norm: Tensor) -> None:
        """Put a norm into the place of the oldest, unless it is not finite."""
        if self.norms.device != norm.device:  # loaded from a file
            self.norms, self.count = self.norms.to(norm.device), self.count.to(norm.device)
        finite = norm.isfinite()
        here = torch.arange(len(self.norms), device=norm.device) == self.count % len(self.norms)
        self.norms = torch.where(here & finite, norm.to(self.norms.dtype), self.norms)
        self.count = self.count + finite

    def percentile(self, percentile: float) -> Tensor:
        """The percentile of the norms, interpolated linearly."""
        return self.norms.nanquantile(percentile / 100)
