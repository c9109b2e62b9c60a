"""Registries: lower-case factory functions, found by name in Python and on the command line.

An optimizer is a function `adamw(module, lr=..., ...) -> Optimizer`, a schedule a function
`(optimizer, total_steps, ...) -> LRScheduler`, a clipping a function `(module, ...) -> Clipping`; the docstring is the
help text. Registering makes options one by one of the sets of options that a function takes (optim/core/options.py),
leaves other functions as they are, and adds a class of the same name for jsonargparse, which gives short names, typed
options and `--optimizer.help NAME` on the command line, and accepts nothing that is not registered.

Names come from the modules of `optim`, from families (optim/libraries/families.py), from installed packages that
declare the entry point `steepest.optimizers`, `steepest.schedules` or `steepest.clippings`, and from a user's own file,
by `@OPTIMIZERS.register`.
"""

import difflib
import functools
import inspect
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast, overload

from jsonargparse.typing import class_from_function
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from steepest.optim.core.options import flat
from steepest.optim.libraries.families import Family, is_installed, require

if TYPE_CHECKING:
    from steepest.optim.clipping.base import Clipping

Factory = Callable[..., Any]


class RegisteredOptimizer(ABC):
    """Marks the choices of `--optimizer`; abstract, so that it is not a choice itself."""

    @abstractmethod
    def _registered(self) -> None: ...


class RegisteredSchedule(ABC):
    """Marks the choices of `--schedule`; abstract, so that it is not a choice itself."""

    @abstractmethod
    def _registered(self) -> None: ...


class RegisteredClipping(ABC):
    """Marks the choices of `--clipping`; abstract, so that it is not a choice itself."""

    @abstractmethod
    def _registered(self) -> None: ...


@dataclass(frozen=True)
class Entry:
    """What a registry knows of one name.

    Attributes:
        factory: The function.
        choice: The class that stands for it on the command line.
        aliases: Other names for it.
        requires: The extra without which it cannot be called, or None.
    """

    factory: Callable[..., Any]
    choice: type
    aliases: tuple[str, ...] = ()
    requires: str | None = None


class Registry:
    """Factory functions of one kind by name; `HeavyBall`, `heavy-ball` and `heavy_ball` are one name.

    Args:
        kind: What an entry is, in the singular, for messages: "optimizer", "schedule" or "clipping".
        marker: Abstract class that marks the entries for the command line.
        arguments: Names of the factories' leading arguments, which are not options.
    """

    def __init__(self, kind: str, marker: type, arguments: Sequence[str]) -> None:
        self.kind = kind
        self.marker = marker
        self.arguments = tuple(arguments)
        self.families: dict[str, Family] = {}
        self._entries: dict[str, Entry] = {}
        self._members: dict[str, Entry] = {}  # of families; made when asked for
        self._names: dict[str, str] = {}  # by key, of entries and aliases
        self._plug_ins_loaded = False

    @overload
    def register(self, factory: Factory, /) -> Factory: ...

    @overload
    def register(
        self, /, *, aliases: Sequence[str] = (), requires: str | None = None, override: bool = False
    ) -> Callable[[Factory], Factory]: ...

    def register(
        self,
        factory: Any = None,
        /,
        *,
        aliases: Sequence[str] = (),
        requires: str | None = None,
        override: bool = False,
    ) -> Any:
        """Add a factory function under its own name: `@OPTIMIZERS.register`, or with arguments.

        Args:
            factory: The function; its docstring is the help text.
            aliases: Other names under which it is found.
            requires: The extra whose package it imports when it is called.
            override: Replace what has the name now.

        Returns:
            The function with flat options, which checks for the extra before each call if one is given.

        Raises:
            ValueError: if a name is taken by another function, or the function or an option has no help.
        """
        if factory is None:
            return functools.partial(self._register, aliases=tuple(aliases), requires=requires, override=override)
        return self._register(factory, (), None, False)

    def _register(
        self, factory: Callable[..., Any], aliases: tuple[str, ...], requires: str | None, override: bool
    ) -> Callable[..., Any]:
        name = factory.__name__
        if not factory.__doc__:
            raise ValueError(f"{self.kind} {name!r} needs a docstring: it is the help text")
        for wanted in (name, *aliases):
            taken = self._entries.get(self._names.get(_key(wanted), ""))
            if taken is not None and not override and _origin(taken.factory) != _origin(factory):
                raise ValueError(
                    f"{self.kind} {wanted!r} is registered already, by {taken.factory.__module__}; choose another name "
                    "or say override=True"
                )
        for other in REGISTRIES:
            if other is not self and name in other._entries:
                raise ValueError(f"{self.kind} {name!r} has the name of a registered {other.kind}: choose another")
        factory = flat(factory)
        if requires is not None:
            factory = _checked(factory, requires, f"{self.kind} {name!r}")
        if name in self._entries:
            _CHOICES.pop(self._entries[name].factory, None)
        self._entries[name] = Entry(factory, _choice(factory, self.marker), aliases, requires)
        _CHOICES[factory] = self._entries[name].choice
        self._names |= {_key(wanted): name for wanted in (name, *aliases)}
        return factory

    def add_family(self, family: Family) -> None:
        """Add optimizers of another package, each made when it is first asked for."""
        self.families[family.prefix] = family

    def names(self) -> list[str]:
        """All registered names in alphabetical order, plug-ins included; members of families are not."""
        self._load_plug_ins()
        return sorted(self._entries)

    def aliases(self, name: str) -> tuple[str, ...]:
        """Other names of an entry."""
        return self._entry(name).aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._entry(name).factory

    def find(self, name: str) -> str | None:
        """The registered name that is meant by a name, an alias or another spelling of either; None if there is none.

        Raises:
            ValueError: if the name is of a family whose package is not installed, or that leaves it out.
        """
        if name in self._entries:
            return name
        key = _key(name)
        if key in self._names:
            return self._names[key]
        for family in self.families.values():
            if member := family.find(name):
                return member
        self._load_plug_ins()
        return self._names.get(key)

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
        """Options of an entry: the parameters of its factory after the leading arguments."""
        parameters = inspect.signature(self[name]).parameters.values()
        return {parameter.name: parameter for parameter in list(parameters)[len(self.arguments) :]}

    def summary(self, name: str) -> str:
        """First line of the entry's docstring."""
        return (inspect.getdoc(self[name]) or "").splitlines()[0]

    def missing_extra(self, name: str) -> str | None:
        """The extra that has to be installed before the entry can be used, or None."""
        extra = self._entry(name).requires
        return extra if extra is not None and not is_installed(extra) else None

    def choice(self, name: str) -> type:
        """The class that stands for an entry on the command line."""
        return self._entry(name).choice

    def unknown(self, name: str) -> str:
        """One line about a name that is not registered."""
        if name in self.families:
            listed = f"`steepest list {self.kind}s '{name}_*'`"
            return f"{self.kind} {name!r} is a family: choose {name}_NAME, see {listed}"
        if not difflib.get_close_matches(_key(name), self._names, n=1, cutoff=0.8):
            for family in self.families.values():
                if is_installed(family.requires) and (member := family.find(f"{family.prefix}_{name}")):
                    return f"unknown {self.kind} {name!r}. Did you mean {member!r}?"
        return unknown_name(self.kind, name, self.names())

    def _entry(self, name: str) -> Entry:
        found = self.find(name)
        if found is None:
            raise ValueError(self.unknown(name))
        if found in self._entries:
            return self._entries[found]
        if found not in self._members:
            prefix, _, member = found.partition("_")
            family = self.families[prefix]
            factory = family.make(member)
            self._members[found] = Entry(factory, _choice(factory, self.marker), (), family.requires)
        return self._members[found]

    def _load_plug_ins(self) -> None:
        if self._plug_ins_loaded:
            return
        self._plug_ins_loaded = True
        for point in entry_points(group=f"steepest.{self.kind}s"):
            try:
                loaded = point.load()
                if inspect.isfunction(loaded) and loaded not in _CHOICES:
                    self.register(loaded)
            except Exception as error:  # somebody else's package must not stop a run that does not use it
                source = f" of {point.dist.name}" if point.dist is not None else ""
                reason = " ".join(str(error).split())
                message = f"plug-in {point.name!r}{source} cannot be loaded: {type(error).__name__}: {reason}"
                warnings.warn(message, stacklevel=3)


_CHOICES: dict[Callable[..., Any], type] = {}  # of all registries, by function


def choice_of(found: Any) -> Any:
    """The class that stands for a registered function on the command line; anything else is returned as it is."""
    return _CHOICES.get(found, found) if isinstance(found, FunctionType) else found


def unknown_name(kind: str, name: str, allowed: list[str]) -> str:
    """One line that says what is unknown, what was probably meant, and what there is."""
    nearest = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {kind} {name!r}.{meant} Allowed: {', '.join(allowed)}."


def _key(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _origin(factory: Callable[..., Any]) -> tuple[str, str]:
    # A module that is imported anew makes new functions.
    return factory.__module__, factory.__qualname__


def _checked(factory: Callable[..., Any], extra: str, what: str) -> Callable[..., Any]:
    @functools.wraps(factory)
    def checked(*arguments: Any, **options: Any) -> Any:
        require(extra, what)
        return factory(*arguments, **options)

    return checked


def _choice(factory: Callable[..., Any], marker: type) -> type:
    """The class that stands for a factory on the command line.

    Its import path is `steepest.optim.registry.NAME`, which `__getattr__` answers, or for a function from elsewhere
    that of the function itself, so that a saved config finds it again.
    """
    name = f"_choice_{factory.__name__}"
    # class_from_function reads the source of every caller up the stack, 0.1 s in a chain of imports: a thread has few.
    with ThreadPoolExecutor(1) as thread:
        choice = thread.submit(lambda: class_from_function(factory, marker, name=name)).result()
    delattr(sys.modules[__name__], name)
    choice.__name__ = choice.__qualname__ = factory.__name__
    if not factory.__module__.startswith("steepest.optim."):
        choice.__module__ = factory.__module__
    return cast(type, choice)


def __getattr__(name: str) -> type:
    for registry in REGISTRIES:  # asked for again and again while a command line is parsed
        if name in registry._entries:
            return registry._entries[name].choice
    if not name.startswith("_"):
        for registry in REGISTRIES:
            if registry.find(name) == name:
                return registry.choice(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


OPTIMIZERS = Registry("optimizer", RegisteredOptimizer, ("module",))
SCHEDULES = Registry("schedule", RegisteredSchedule, ("optimizer", "total_steps"))
CLIPPINGS = Registry("clipping", RegisteredClipping, ("module",))
REGISTRIES = (OPTIMIZERS, SCHEDULES, CLIPPINGS)

# What the command line accepts (a registered name) is written for type checkers as what calling the factory returns.
if TYPE_CHECKING:
    OptimizerFactory = Callable[[nn.Module], Optimizer]
    ScheduleFactory = Callable[[Optimizer, int], LRScheduler]
    ClippingFactory = Callable[[nn.Module], Clipping]
else:
    OptimizerFactory = Callable[[nn.Module], RegisteredOptimizer]
    ScheduleFactory = Callable[[Optimizer, int], RegisteredSchedule]
    ClippingFactory = Callable[[nn.Module], RegisteredClipping]
