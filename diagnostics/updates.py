"""What an optimizer step really changes, measured around the step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.gradient_flow import norms

NamedParameters = Sequence[tuple[str, nn.Parameter]]
Timer = Callable[[], AbstractContextManager]
Record = TypeVar("Record")


class SharedStep:
    """The weights before one step of an optimizer, then what it added to them: one copy, however many recorders.

    Every recorder that wants the step holds it until the step is over; the copy goes when the last one lets it go.
    """

    _open: ClassVar[WeakValueDictionary[int, "SharedStep"]] = WeakValueDictionary()

    def __init__(self) -> None:
        self._finished = False
        self._recorders: set[int] = set()
        self._copies: dict[int, tuple[nn.Parameter, Tensor]] = {}

    @classmethod
    def join(cls, optimizer: Optimizer, recorder: object) -> "SharedStep":
        """The step that this optimizer is about to take."""
        step = cls._open.get(id(optimizer))
        # A recorder that has joined already has seen this step break off: the weights may have moved since.
        if step is None or step._finished or id(recorder) in step._recorders:
            step = cls._open[id(optimizer)] = cls()
        step._recorders.add(id(recorder))
        return step

    def remember(self, parameters: Iterable[nn.Parameter]) -> None:
        """Copy what is not copied yet; before the step."""
        for parameter in parameters:
            if id(parameter) not in self._copies:
                self._copies[id(parameter)] = parameter, parameter.detach().clone()

    @torch.no_grad()
    def changes(self, parameters: Iterable[nn.Parameter]) -> list[Tensor]:
        """Weights after minus weights before; shared with other recorders, so not to be written to."""
        if not self._finished:
            self._finished = True
            for parameter, copy in self._copies.values():
                copy.neg_().add_(parameter.detach())
        return [self._copies[id(parameter)][1] for parameter in parameters]


class StepWatcher(ABC, Generic[Record]):
    """Makes a record of wanted steps by step hooks, so that closures, loss scaling and clipping need no special case.

    A hook that fails leaves the training alone; `check` raises its error where it can be dealt with.

    Args:
        optimizers: Whose steps to watch.
        parameters_of: The trainable parameters of an optimizer, with their names.
        wanted: Called before every step; if True the step is recorded, at the price of a copy of its parameters.
        timed: A context for the hooks' work on recorded steps, which measures its time, say.

    Attributes:
        records: By optimizer, its first wanted step since the last `clear`.
    """

    def __init__(
        self,
        optimizers: Iterable[Optimizer],
        parameters_of: Callable[[Optimizer], NamedParameters],
        wanted: Callable[[], bool],
        timed: Timer = nullcontext,
    ) -> None:
        self.parameters_of = parameters_of
        self.wanted = wanted
        self.timed = timed
        self.records: dict[Optimizer, Record] = {}
        self._before: dict[Optimizer, tuple[NamedParameters, SharedStep]] = {}
        self._error: Exception | None = None
        self._handles = []
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    @abstractmethod
    def record(self, optimizer: Optimizer, named: NamedParameters, changes: list[Tensor]) -> Record:
        """What to keep of a step; `changes` are weights after minus before, in the order of `named`, not to be written.

        Called right after the step, without gradients.
        """

    def begin(self, optimizer: Optimizer, named: NamedParameters) -> None:
        """Called right before a wanted step."""

    def check(self) -> None:
        """Raise the error of a hook that failed since the last call or `clear`, if any."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def clear(self) -> None:
        """Forget what was recorded."""
        self.records.clear()
        self._before.clear()
        self._error = None

    def remove(self) -> None:
        """Take the hooks off the optimizers."""
        for handle in self._handles:
            handle.remove()
        self.clear()

    def _before_step(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        if not self.wanted() or optimizer in self.records:
            return
        try:
            with self.timed():
                named = self.parameters_of(optimizer)
                step = SharedStep.join(optimizer, self)
                step.remember(parameter for _, parameter in named)
                self.begin(optimizer, named)
        except Exception as error:
            self._error = error
        else:
            self._before[optimizer] = named, step

    def _after_step(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        if not self._before or optimizer not in self._before:
            return
        named, step = self._before.pop(optimizer)
        try:
            with self.timed(), torch.no_grad():
                self.records[optimizer] = self.record(optimizer, named, step.changes(own for _, own in named))
        except Exception as error:
            self._error = error


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


class UpdateRecorder(StepWatcher[Update]):
    """Records the norms of updates; see `StepWatcher` for the other arguments.

    Args:
        with_gradients: Measure the gradients right after the step as well, that is after clipping.
    """

    def __init__(
        self,
        optimizers: Iterable[Optimizer],
        parameters_of: Callable[[Optimizer], NamedParameters],
        wanted: Callable[[], bool],
        timed: Timer = nullcontext,
        with_gradients: bool = False,
    ) -> None:
        super().__init__(optimizers, parameters_of, wanted, timed)
        self.with_gradients = with_gradients

    @property
    def updates(self) -> dict[Optimizer, Update]:
        """The first wanted step of each optimizer since the last `clear`."""
        return self.records

    def record(self, optimizer: Optimizer, named: NamedParameters, changes: list[Tensor]) -> Update:
        """The norms of the changes and of the gradients."""
        values = [norms(changes)]
        if self.with_gradients:
            gradients = [_dense(parameter.grad) for _, parameter in named if parameter.grad is not None]
            values.append(torch.linalg.vector_norm(norms(gradients)).reshape(1).to(values[0]))
        return Update(tuple(name for name, _ in named), torch.cat(values))


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
