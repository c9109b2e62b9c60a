"""One optimizer under contract, and how a check complains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

Check = Callable[["Case"], None]
CHECKS: dict[str, Check] = {}
WITHOUT_CLOSURE: set[str] = set()  # names of the checks that call step() alone


class ContractError(AssertionError):
    """An optimizer does not do what is expected of all."""


@dataclass(frozen=True)
class Case:
    """One optimizer under contract.

    Attributes:
        name: For messages.
        make: Builds it for a model and a learning rate.
        lr: A learning rate with which it solves an easy, well-scaled problem in some hundred steps.
        rosenbrock_lr: One for Rosenbrock's valley; None tries a few multiples of `lr`.
        refused: Calls that must raise `ValueError`, by what is wrong, each taking a model.
    """

    name: str
    make: Callable[[nn.Module, float], Optimizer]
    lr: float
    rosenbrock_lr: float | None = None
    refused: Mapping[str, Callable[[nn.Module], Any]] = field(default_factory=dict)


def check(function: Check) -> Check:
    """Add a check under its name."""
    CHECKS[function.__name__] = function
    return function


def without_closure(function: Check) -> Check:
    """Add a check that calls step() alone, which an optimizer that needs a closure refuses."""
    WITHOUT_CLOSURE.add(function.__name__)
    return check(function)


def demand(case: Case, holds: bool, complaint: str) -> None:
    """Raise `ContractError` unless something holds."""
    if not holds:
        raise ContractError(f"{case.name}: {complaint}")


def refused(case: Case, call: Callable[[], Any], what: str) -> None:
    """Demand that a call raises a `ValueError` of one line."""
    try:
        call()
    except ValueError as error:
        demand(case, "\n" not in str(error).strip(), f"{what} is refused in more than one line")
        return
    raise ContractError(f"{case.name}: {what} is accepted")
