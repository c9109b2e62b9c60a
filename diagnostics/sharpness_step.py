"""The weights before an optimizer step, and the options it was taken with."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.curvature import CurvatureUnavailableError
from diagnostics.guards import values_restored
from diagnostics.updates import Timer, optimizer_parameters


class StepRecorder:
    """Keeps what a step hook sees before a wanted step; schedules move the options on right after it.

    Args:
        optimizers: Whose steps to watch.
        wanted: Called before every step; if True the step is recorded, at the price of a copy of its weights.
        timed: A context for the hooks' work on recorded steps, which measures its time, say.

    Attributes:
        groups: By optimizer, the parameter groups of its first wanted step since the last `clear`.
    """

    def __init__(self, optimizers: Sequence[Optimizer], wanted: Callable[[], bool], timed: Timer = nullcontext) -> None:
        self.wanted = wanted
        self.timed = timed
        self._error: Exception | None = None
        self.groups: dict[Optimizer, list[dict[str, Any]]] = {}
        self._before: dict[int, Tensor] = {}
        self._handles = [optimizer.register_step_pre_hook(self._before_step) for optimizer in optimizers]

    def weights_before(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Values before the recorded steps; the present ones of parameters that no recorded step could change."""
        return [self._before.get(id(parameter), parameter.detach()) for parameter in parameters]

    def check(self) -> None:
        """Raise the error of a hook that failed since the last call or `clear`, if any; training went on."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def clear(self) -> None:
        """Forget what was recorded."""
        self.groups.clear()
        self._before.clear()
        self._error = None

    def remove(self) -> None:
        """Take the hooks off the optimizers."""
        for handle in self._handles:
            handle.remove()
        self.clear()

    def _before_step(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        if not self.wanted() or optimizer in self.groups:
            return
        try:
            with self.timed():
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        self._before[id(parameter)] = parameter.detach().clone()
                self.groups[optimizer] = [dict(group) for group in optimizer.param_groups]
        except Exception as error:  # out of memory, say: no reason to stop training
            self._error = error


@contextmanager
def weights_at(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Give the parameters other values for a while, and their own back, to the bit, on exit."""
    with values_restored(parameters):
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), list(values))
        yield


def trained_parameters(module: nn.Module, optimizers: Sequence[Optimizer]) -> list[nn.Parameter]:
    """The trainable parameters of `module` that one of the optimizers updates, in the module's order.

    Raises:
        CurvatureUnavailableError: if there are none, or they are of 16 bits.
    """
    found = {id(own) for optimizer in optimizers for _, own in optimizer_parameters(module, optimizer)}
    parameters = [parameter for parameter in module.parameters() if id(parameter) in found]
    if not parameters:
        raise CurvatureUnavailableError("no optimizer updates a parameter, so there is no curvature to measure")
    coarse = next((own.dtype for own in parameters if own.dtype in (torch.float16, torch.bfloat16)), None)
    if coarse is not None:
        raise CurvatureUnavailableError(
            f"weights in {coarse} are too coarse for second derivatives: train with precision bf16-mixed or 32-true"
        )
    return parameters
