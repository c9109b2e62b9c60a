"""The loop that the references share; each of them is its update rule and little else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import required

from steepest.optim.checks import check_number
from steepest.optim.core.naming import matched_by_name
from steepest.optim.core.options import Options

State = dict[str, Tensor]


class Reference(Optimizer, ABC):
    """Calls `update` for one parameter after the other.

    The state is there from the start, so that a checkpoint is complete at any time.

    Args:
        params: Tensors, or groups of them with options of their own.
        lr: Learning rate, at least 0; only groups that have their own do without.
        weight_decay: Of all parameters, at least 0.
        own: Options of the rule, see `options`.

    Attributes:
        options: What the rule has besides.

    Raises:
        ValueError: if an option is out of range, or a parameter is complex.
    """

    options: ClassVar[type[Options]] = Options

    def __init__(self, params: Iterable[Any], lr: Any = required, weight_decay: float = 0.0, **own: Any) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **vars(self.options(**own))})

    @abstractmethod
    def initial_state(self, weight: Tensor, group: dict[str, Any]) -> State:
        """What is remembered of a parameter before the first step."""

    @abstractmethod
    def update(self, weight: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
        """Change weight and state in place by one step, with the options in `group`; the gradient stays as it is."""

    def check(self, group: dict[str, Any]) -> None:
        """Refuse options of the rule that are out of range."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, check their options and allocate their state."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        check_number("lr", group["lr"])
        check_number("weight_decay", group.get("weight_decay", 0.0))
        self.check(group)
        for weight in group["params"]:
            if weight.is_complex():
                raise ValueError(f"{type(self).__name__} does not support complex parameters (type {weight.dtype})")
            self.state[weight] = self.initial_state(weight.detach(), group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient; returns the loss of the closure, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.update(weight, dense(weight.grad, self), self.state[weight], group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state, by parameter name where names were saved.

        Raises:
            ValueError: if the state belongs to another optimizer or another model.
        """
        state_dict = matched_by_name(self, deepcopy(state_dict))  # two optimizers must not share a tensor
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for index, weight in enumerate(weights):
            saved, own = shapes(state_dict["state"].get(index, {})), shapes(self.state[weight])
            if saved != own:
                raise ValueError(
                    f"the saved state of parameter {index} is {saved}, not {own}: it belongs to "
                    "another optimizer or model"
                )
        super().load_state_dict(state_dict)


def dense(gradient: Tensor, optimizer: Optimizer) -> Tensor:
    """The gradient, if it is not sparse.

    Raises:
        ValueError: if it is.
    """
    if gradient.is_sparse:
        raise ValueError(f"{type(optimizer).__name__} does not support sparse gradients: use sparse=False")
    return gradient


def shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each entry, to compare states."""
    return {key: tuple(getattr(value, "shape", ())) for key, value in sorted(state.items())}
