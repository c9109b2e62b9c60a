"""What an optimizer step really changes, measured around the step."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.gradient_flow import norms

NamedParameters = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Update:
    """One optimizer step, still on the device.

    Attributes:
        names: The optimizer's trainable parameters.
        values: Euclidean norm of each one's change, then that of all gradients as the optimizer saw them (if wanted).
    """

    names: tuple[str, ...]
    values: Tensor

    def to_host(self) -> tuple[dict[str, float], float | None]:
        """Norms of the changes by name, and the gradient norm, in one transfer."""
        values = self.values.tolist()
        changes = dict(zip(self.names, values, strict=False))
        return changes, values[-1] if len(values) > len(self.names) else None


class UpdateRecorder:
    """Records updates by step hooks, so that closures, loss scaling and clipping need no special case.

    Args:
        optimizers: Whose steps to watch.
        parameters_of: The trainable parameters of an optimizer, with their names.
        wanted: Called before every step; if True the step is measured, at the price of a copy of its parameters.
        with_gradients: Measure the gradients right after the step as well, that is after clipping.

    Attributes:
        updates: The first wanted step of each optimizer since the last `clear`.
    """

    def __init__(
        self,
        optimizers: Iterable[Optimizer],
        parameters_of: Callable[[Optimizer], NamedParameters],
        wanted: Callable[[], bool],
        with_gradients: bool = False,
    ) -> None:
        self.parameters_of = parameters_of
        self.wanted = wanted
        self.with_gradients = with_gradients
        self.updates: dict[Optimizer, Update] = {}
        self._before: dict[Optimizer, tuple[NamedParameters, list[Tensor]]] = {}
        self._handles = []
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def clear(self) -> None:
        """Forget what was recorded."""
        self.updates.clear()
        self._before.clear()

    def remove(self) -> None:
        """Take the hooks off the optimizers."""
        for handle in self._handles:
            handle.remove()
        self.clear()

    def _before_step(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        if self.wanted() and optimizer not in self.updates:
            named = self.parameters_of(optimizer)
            self._before[optimizer] = named, [parameter.detach().clone() for _, parameter in named]

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        if not self._before or optimizer not in self._before:
            return
        named, before = self._before.pop(optimizer)
        for copy, (_, parameter) in zip(before, named, strict=True):
            copy.sub_(parameter.detach())
        values = [norms(before)]
        if self.with_gradients:
            gradients = [_dense(parameter.grad) for _, parameter in named if parameter.grad is not None]
            values.append(torch.linalg.vector_norm(norms(gradients)).reshape(1).to(values[0]))
        self.updates[optimizer] = Update(tuple(name for name, _ in named), torch.cat(values))


def optimizer_parameters(module: nn.Module, optimizer: Optimizer) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters of `module` that `optimizer` updates, in the module's order, by their plain names."""
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [
        (plain_name(name), parameter)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and id(parameter) in owned
    ]


def plain_name(name: str) -> str:
    """The parameter's name without what torch.compile puts in front of a compiled submodule's parameters."""
    return name.replace("_orig_mod.", "")


def _dense(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient
