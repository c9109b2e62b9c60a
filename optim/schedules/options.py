"""Schedules for options other than the learning rate: momentum, weight decay, spectral budget, ..."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from steepest.optim.checks import check_number
from steepest.optim.registry import ScheduleFactory, unknown_name
from steepest.optim.schedules import factor_function

# Moved by `--schedule`, or no options of the update.
FIXED = ("lr", "initial_lr", "lr_scale", "clip")


@dataclass(frozen=True)
class OptionSchedule:
    """How an option of the optimizer's groups moves: at_zero + (own value - at_zero) * factor.

    A momentum that rises from 0.85 to the group's own 0.95 in 300 steps is `constant` with a warm-up of 300, at_zero
    0.85. One that moves against a one-cycle learning rate is `one_cycle` with an own value of 0.85, at_zero 0.95.

    Attributes:
        schedule: The schedule that gives the factor, with its options.
        at_zero: Value of the option where the factor is 0; where it is 1 the option has the group's own value.
    """

    schedule: ScheduleFactory
    at_zero: float = 0.0


class OptionScheduler(LRScheduler):
    """Moves options of an optimizer's groups step by step; it leaves the learning rate to others.

    Its state is the number of the step; a resumed run computes the values anew from the options it was given.

    Args:
        optimizer: Its groups' values are the own values. One that is 0 stays 0: no decay where none is wanted.
        total_steps: Length of the run in steps, at least 1.
        schedules: By option: any real-valued entry of the groups, such as "weight_decay" or "spectral_budget".
            "momentum" is also the first of a group's "betas".

    Raises:
        ValueError: if no group has the option, it is 0 in all, or a schedule does not fit.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, schedules: Mapping[str, OptionSchedule]) -> None:
        self._moves: dict[str, tuple[Callable[[int], float], float]] = {}
        self._own: list[dict[str, float]] = [{} for _ in optimizer.param_groups]
        for option, move in schedules.items():
            check_number(f"at_zero of {option}", move.at_zero)
            self._moves[option] = factor_function(move.schedule, total_steps), move.at_zero
            for own, value in zip(self._own, _values(optimizer, option), strict=True):
                if value:
                    own[option] = value
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The learning rates as they are."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def step(self, epoch: int | None = None) -> None:
        """Move the options to their values at the next step."""
        super().step()
        for group, values in zip(self.optimizer.param_groups, self.option_values(), strict=False):
            for option, value in values.items():
                _set(group, option, value)

    def option_values(self) -> list[dict[str, float]]:
        """Values of the scheduled options at the present step, for each parameter group."""
        return [{option: self._value(option, value) for option, value in own.items()} for own in self._own]

    def state_dict(self) -> dict[str, Any]:
        """The number of the step."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def _value(self, option: str, own: float) -> float:
        factor, at_zero = self._moves[option]
        value = at_zero + (own - at_zero) * factor(self.last_epoch)
        if option == "momentum":
            check_number(f"momentum at step {self.last_epoch + 1}", value, high=1.0)
        return value


def _values(optimizer: Optimizer, option: str) -> list[float | None]:
    """The option's value in each group; None where a group has it not."""
    if option == "lr":
        raise ValueError("the learning rate is moved by the schedule itself: choose with --schedule NAME")
    groups = optimizer.param_groups
    values = [group["betas"][0] if _is_beta(group, option) else group.get(option) for group in groups]
    if option in FIXED or all(value is None for value in values):
        allowed = {key for group in groups for key, value in group.items() if _is_real(value)} - set(FIXED)
        if any(_is_beta(group, "momentum") for group in groups):
            allowed.add("momentum")
        raise ValueError(unknown_name(f"option of {type(optimizer).__name__} to schedule", option, sorted(allowed)))
    for value in values:
        if value is not None and not _is_real(value):
            raise ValueError(f"option {option!r} cannot be scheduled: its value {value!r} is not a real number")
    if not any(values):
        raise ValueError(f"option {option!r} cannot be scheduled: it is 0 in all parameter groups")
    return values


def _set(group: dict[str, Any], option: str, value: float) -> None:
    if _is_beta(group, option):
        group["betas"] = (value, *group["betas"][1:])
    else:
        group[option] = value


def _is_beta(group: Mapping[str, Any], option: str) -> bool:
    return option == "momentum" and "momentum" not in group and "betas" in group


def _is_real(value: Any) -> bool:
    return isinstance(value, float) or (value == 0 and not isinstance(value, bool))
