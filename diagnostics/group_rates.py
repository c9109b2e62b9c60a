"""The learning rates of all parameter groups, moved together."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class GroupRates:
    """Multiplies every group's own learning rate by one factor, so that the ratios between groups stay.

    A group's own learning rate is the base of its schedule (`initial_lr`) if it has one.

    Args:
        optimizers: Whose groups.

    Attributes:
        own: Each group's own learning rate.
        reference: That of the first group whose rate is not 0: what a factor is told by.

    Raises:
        ValueError: if there is no group, one has no learning rate, or all are 0.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        if not self.groups:
            raise ValueError("there is no optimizer with parameters, so there is no learning rate to test")
        if not all("lr" in group for group in self.groups):
            raise ValueError("a parameter group has no learning rate `lr`, so there is nothing to test")
        self.own = [float(group.get("initial_lr", group["lr"])) for group in self.groups]
        moving = [rate for rate in self.own if rate > 0]
        if not moving:
            raise ValueError("the learning rate is 0 in all parameter groups: give the optimizer one above 0")
        self.reference = moving[0]
        self._factor = 1.0

    def set(self, factor: float) -> None:
        """Set every group's learning rate to its own times `factor`."""
        self._factor = factor
        self.hold()

    def hold(self) -> None:
        """Set the learning rates once more to what `set` made them, whoever has moved them since."""
        for group, own in zip(self.groups, self.own, strict=True):
            _set(group, "lr", own * self._factor)

    def apply(self, factor: float, schedulers: Sequence[Any] = ()) -> None:
        """Make `factor` times the own learning rates the groups' own from now on.

        Args:
            factor: Above 0.
            schedulers: PyTorch schedules of these groups; their base values move as well, or their next step would
                undo it. A rate that a schedule holds as a number of its own (an `eta_min`) stays.
        """
        for group in self.groups:
            for key in ("lr", "initial_lr", "max_lr", "min_lr"):
                if key in group:
                    _set(group, key, float(group[key]) * factor)
        for scheduler in schedulers:
            _scale(scheduler, factor)
        self.own = [own * factor for own in self.own]
        self.reference *= factor


def _set(group: dict[str, Any], key: str, value: float) -> None:
    if isinstance(group[key], Tensor):  # a compiled or capturable step reads the tensor
        group[key].fill_(value)
    else:
        group[key] = value


def _scale(scheduler: Any, factor: float) -> None:
    for name in ("base_lrs", "max_lrs", "_last_lr"):
        rates = getattr(scheduler, name, None)
        if isinstance(rates, list):
            setattr(scheduler, name, [rate * factor for rate in rates])
    for inner in getattr(scheduler, "_schedulers", ()):
        _scale(inner, factor)
