"""What an optimizer step really changes, measured around the step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.common.parameter_names import parameter_names
from steepest.diagnostics.common.step_hooks import StepHooks, Timer
from steepest.diagnostics.gradient_flow.flow import norms, role_of, stacked
from steepest.diagnostics.updates.dynamics import DynamicsSample, products, sample_of

NamedParameters = Sequence[tuple[str, nn.Parameter]]
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


class StepWatcher(StepHooks, ABC, Generic[Record]):
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
        super().__init__(wanted, timed)
        self.parameters_of = parameters_of
        self.records: dict[Optimizer, Record] = {}
        self._before: dict[Optimizer, tuple[NamedParameters, SharedStep]] = {}
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

    def clear(self) -> None:
        """Forget what was recorded."""
        super().clear()
        self.records.clear()
        self._before.clear()

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
        (name, parameter)
        for parameter, name in parameter_names(module).items()
        if parameter.requires_grad and id(parameter) in owned
    ]


def _dense(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step, still on the device.

    Attributes:
        named: The parameters that had a gradient, by plain name.
        rows: What `products` returned of them.
        statistics: What the optimizer told about its step, by parameter name.
    """

    named: NamedParameters
    rows: Tensor
    statistics: dict[str, Mapping[str, Tensor]]


class DynamicsRecorder(StepWatcher[StepRecord | None]):
    """Records steps to be measured, and the steps right before them, of which only the changes are needed.

    In a plain training loop, with both calls always True:

        recorder = DynamicsRecorder([optimizer], parameters_of, lambda: True, lambda: True)
        for batch in batches:
            optimizer.zero_grad(); loss(batch).backward(); optimizer.step()
            print(recorder.sample().totals)
            recorder.turn(keep=True)

    Args:
        optimizers: Whose steps to watch.
        parameters_of: The trainable parameters of an optimizer, with their names.
        wanted: Called before every step: whether this step or the next one is measured.
        measured: Called before every wanted step: whether this one is measured. Optimizers with an attribute
            `record_statistics`, or with one in their `base`, then fill `last_stats`.
        timed: See `StepWatcher`.
    """

    def __init__(
        self,
        optimizers: Iterable[Optimizer],
        parameters_of: Callable[[Optimizer], NamedParameters],
        wanted: Callable[[], bool],
        measured: Callable[[], bool],
        timed: Timer = nullcontext,
    ) -> None:
        optimizers = list(optimizers)
        super().__init__(optimizers, parameters_of, wanted, timed)
        self.measured = measured
        self._optimizers = optimizers
        self._gradients: dict[Optimizer, dict[str, Tensor]] = {}
        self._weight_norms: dict[Optimizer, Tensor] = {}
        self._changes: dict[Optimizer, dict[str, Tensor]] = {}
        self._previous: dict[Optimizer, dict[str, Tensor]] = {}
        self._told: dict[Optimizer, bool] = {}

    def note_gradients(self, optimizer: Optimizer, scale: float = 1.0) -> None:
        """Copy the gradients as they are now: before clipping, or before a closure is evaluated again.

        The first call for a step counts; without one the gradients that the step leaves behind count.

        Args:
            optimizer: Whose parameters' gradients.
            scale: What they are multiplied by at the moment (a loss scaler's scale); divided out.
        """
        if optimizer in self._gradients or self.records.get(optimizer) is not None:
            return
        try:
            named = self.parameters_of(optimizer)
            self._gradients[optimizer] = {name: own.grad / scale for name, own in named if own.grad is not None}
        except Exception as error:  # out of memory, say: no reason to stop training
            self._error = error

    def sample(self, order: Sequence[str] = ()) -> DynamicsSample | None:
        """The dynamics of the measured steps of all optimizers; waits for the device.

        Args:
            order: Names of parameters in the order wanted; by default as the optimizers have stepped.

        Returns:
            None if there was no measured step, or no gradient in it.
        """
        taken = [record for record in self.records.values() if record is not None and record.named]
        if not taken:
            return None
        named = [pair for record in taken for pair in record.named]
        columns = [column for record in taken for column in record.rows.T.tolist()]
        places = {name: place for place, name in enumerate(order)}
        sorting = sorted(range(len(named)), key=lambda index: places.get(named[index][0], index))
        named, columns = [named[index] for index in sorting], [columns[index] for index in sorting]
        others: dict[str, dict[str, float]] = {}
        told = [(name, key, v) for r in taken for name, of in r.statistics.items() for key, v in of.items()]
        numbers = stacked([torch.as_tensor(value) for _, _, value in told]).tolist()
        for (name, key, _), number in zip(told, numbers, strict=True):
            others.setdefault(key, {})[name] = number
        return sample_of([name for name, _ in named], [role_of(*pair) for pair in named], columns, others)

    @property
    def holds_something(self) -> bool:
        """Whether there is something to forget."""
        return bool(self.records or self._gradients or self._previous)

    def turn(self, keep: bool) -> None:
        """Forget the recorded steps, but for the changes of the last ones if the next steps are to be measured."""
        if not keep:
            self._previous.clear()
        else:
            self._previous |= self._changes
        self._changes = {}
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded, but for the changes before it."""
        super().clear()
        self._changes.clear()
        self._gradients.clear()
        self._weight_norms.clear()

    def remove(self) -> None:
        """Take the hooks off the optimizers."""
        for optimizer in list(self._told):
            self._listen(optimizer)
        self._previous.clear()
        super().remove()

    def state_dict(self) -> dict[str, Tensor]:
        """The changes of the last step by parameter name, if the next one is measured; else empty."""
        return {name: change.cpu() for changes in self._previous.values() for name, change in changes.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        for optimizer in self._optimizers:
            own = {name: state[name].to(own.device) for name, own in self.parameters_of(optimizer) if name in state}
            if own:
                self._previous[optimizer] = own

    # --- hooks ------------------------------------------------------------------------------------------------------

    def begin(self, optimizer: Optimizer, named: NamedParameters) -> None:
        """Measure the weights, and ask the optimizer for its statistics."""
        if self.measured():
            self._weight_norms[optimizer] = norms([own.detach() for _, own in named])
            source = _source(optimizer)
            if source is not None:
                self._told[optimizer], source.record_statistics = source.record_statistics, True

    def record(self, optimizer: Optimizer, named: NamedParameters, changes: list[Tensor]) -> StepRecord | None:
        """Keep the changes, and measure the step if it is to be measured."""
        by_name = {name: change for (name, _), change in zip(named, changes, strict=True)}
        self._changes[optimizer] = by_name
        previous = self._previous.pop(optimizer, {})
        statistics = self._listen(optimizer)
        weight_norms = self._weight_norms.pop(optimizer, None)
        if weight_norms is None:
            return None
        gradients = self._gradients.pop(optimizer, None)
        if gradients is None:
            gradients = {name: own.grad for name, own in named if own.grad is not None}
        places = [index for index, (name, _) in enumerate(named) if name in gradients]
        own = [named[index] for index in places]
        rows = products(
            [by_name[name] for name, _ in own],
            [gradients[name] for name, _ in own],
            weight_norms[places],
            [previous.get(name) for name, _ in own],
        )
        names = {id(parameter): name for name, parameter in named}
        told = {names[key]: entry for key, entry in statistics.items() if key in names}
        return StepRecord(own, rows, told)

    def _before_step(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        super()._before_step(optimizer, _args, _kwargs)
        if (self._previous or self._changes) and optimizer not in self._before:
            # This step is not recorded: what was recorded before is not the step before the next one.
            self._previous.pop(optimizer, None)
            self._changes.pop(optimizer, None)

    def _listen(self, optimizer: Optimizer) -> dict[int, Mapping[str, Tensor]]:
        """Statistics of the step by identity of the parameter; ask for no more."""
        if optimizer not in self._told:
            return {}
        source = _source(optimizer)
        source.record_statistics = self._told.pop(optimizer)
        found = {}
        for number, group in enumerate(source.param_groups):
            names = group.get("param_names") or [f"{number}.{index}" for index in range(len(group["params"]))]
            for name, parameter in zip(names, group["params"], strict=True):
                if name in source.last_stats:
                    found[id(parameter)] = source.last_stats[name]
        return found


def _source(optimizer: Any) -> Any:
    """The optimizer, or the one it wraps as `base`, that can tell about its steps."""
    while optimizer is not None and not hasattr(optimizer, "record_statistics"):
        optimizer = getattr(optimizer, "base", None)
    return optimizer


class ChangeRecorder(StepWatcher[dict[str, Tensor]]):
    """Keeps the changes themselves instead of their norms; see `StepWatcher` for the arguments."""

    @property
    def changes(self) -> dict[Optimizer, dict[str, Tensor]]:
        """Weights after minus weights before, by plain name, of the first wanted step of each since `clear`."""
        return self.records

    def record(self, optimizer: Optimizer, named: NamedParameters, changes: list[Tensor]) -> dict[str, Tensor]:
        """The changes by name."""
        return {name: change for (name, _), change in zip(named, changes, strict=True)}
