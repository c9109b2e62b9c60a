"""Registries: lower-case factory functions, found by name in Python and on the command line.

An optimizer is a function `adamw(module, lr=..., ...) -> Optimizer`, a schedule a function
`(optimizer, total_steps, ...) -> LRScheduler`; the docstring is the help text. Registering a function leaves it a plain
function and adds a class of the same name for jsonargparse, which gives short names, typed options and
`--optimizer.help NAME` on the command line, and accepts nothing that is not registered.
"""

import difflib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from jsonargparse.typing import class_from_function
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Factory = TypeVar("Factory", bound=Callable[..., Any])


class RegisteredOptimizer(ABC):
    """Marks the choices of `--optimizer`; abstract, so that it is not a choice itself."""

    @abstractmethod
    def _registered(self) -> None: ...


class RegisteredSchedule(ABC):
    """Marks the choices of `--schedule`; abstract, so that it is not a choice itself."""

    @abstractmethod
    def _registered(self) -> None: ...


class Registry:
    """Factory functions of one kind by name.

    Args:
        kind: What an entry is, in the singular, for messages: "optimizer" or "schedule".
        marker: Abstract class that marks the entries for the command line.
    """

    def __init__(self, kind: str, marker: type) -> None:
        self.kind = kind
        self.marker = marker
        self._factories: dict[str, Callable[..., Any]] = {}
        self._choices: dict[str, type] = {}

    def register(self, factory: Factory) -> Factory:
        """Add a factory function under its own name and return it unchanged.

        Raises:
            ValueError: if the name is taken by another function, or the function has no docstring to serve as help.
        """
        name = factory.__name__
        taken = self._factories.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (factory.__module__, factory.__qualname__):
            raise ValueError(f"{self.kind} {name!r} is registered already, by {taken.__module__}; choose another name")
        if not factory.__doc__:
            raise ValueError(f"{self.kind} {name!r} needs a docstring: it is the help text")
        if taken is None:
            self._choices[name] = class_from_function(factory, self.marker, name=name)
        self._factories[name] = factory
        return factory

    def names(self) -> list[str]:
        """All registered names in alphabetical order."""
        return sorted(self._factories)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._factories

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name not in self._factories:
            raise ValueError(unknown_name(self.kind, name, self.names()))
        return self._factories[name]

    def create(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Call the factory `name`: `OPTIMIZERS.create("adamw", module, lr=3e-4)`.

        Raises:
            ValueError: if the name is not registered or the factory has no such option; the message names the nearest
                one and all that are allowed.
        """
        factory = self[name]
        allowed = self.options(name)
        for option in options:
            if option not in allowed:
                raise ValueError(unknown_name(f"option of {self.kind} {name}", option, list(allowed)))
        return factory(*arguments, **options)

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """Options of an entry with their defaults: the parameters of its factory that have one or are keyword-only."""
        parameters = inspect.signature(self[name]).parameters.values()
        positional = len(REQUIRED_ARGUMENTS[self.kind])
        return {parameter.name: parameter for parameter in list(parameters)[positional:]}

    def summary(self, name: str) -> str:
        """First line of the entry's docstring."""
        return (inspect.getdoc(self[name]) or "").splitlines()[0]


def unknown_name(kind: str, name: str, allowed: list[str]) -> str:
    """One line that says what is unknown, what was probably meant, and what there is."""
    nearest = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {kind} {name!r}.{meant} Allowed: {', '.join(allowed)}."


REQUIRED_ARGUMENTS = {"optimizer": ("module",), "schedule": ("optimizer", "total_steps")}
OPTIMIZERS = Registry("optimizer", RegisteredOptimizer)
SCHEDULES = Registry("schedule", RegisteredSchedule)

# What the command line accepts (a registered name) is written for type checkers as what calling the factory returns.
if TYPE_CHECKING:
    OptimizerFactory = Callable[[nn.Module], Optimizer]
    ScheduleFactory = Callable[[Optimizer, int], LRScheduler]
else:
    OptimizerFactory = Callable[[nn.Module], RegisteredOptimizer]
    ScheduleFactory = Callable[[Optimizer, int], RegisteredSchedule]
