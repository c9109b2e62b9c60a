"""The interface of an update rule, and the rules there are by name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from steepest.common.linear_step import LinearStep
from steepest.optim.core.options import Options
from steepest.optim.core.width_scaling import WidthRule
from steepest.optim.registry import unknown_name

Statistics = list[dict[str, Tensor]]
State = dict[str, Tensor]


class Algorithm(ABC):
    """How the weights of one parameter group are changed in a step; `Composite` (optim/core/composite.py) drives it.

    An instance holds no data: options live in the parameter group, state in the optimizer's `state`. So one optimizer
    object can apply several algorithms, and a checkpoint holds tensors and numbers only.

    Attributes:
        name: Lower-case name, as parameter rules and groups give it.
        options: Options of a group besides "params", "lr" and "weight_decay"; numbers, strings, booleans, None and
            tuples of them only.
    """

    name: ClassVar[str]
    options: ClassVar[type[Options]] = Options

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The options by name, with their defaults."""
        return vars(self.options())

    def check(self, group: Mapping[str, Any]) -> None:  # noqa: B027 - most have nothing to check beyond the common
        """Refuse options of a complete group that are out of range or do not go together.

        Raises:
            ValueError: naming the option, its value and what is allowed.
        """

    def width_rule(self, options: Mapping[str, Any], weight: Tensor) -> WidthRule | None:
        """The learning-rate factor of a parameter of a wider network under muP (optim/core/width_scaling.py).

        Args:
            options: Options of the algorithm, as far as they are given.
            weight: The parameter; its shape may matter.

        Returns:
            A function of the ratios of inputs and outputs; None, the default, for an algorithm that has no factor.
        """
        return None

    def linear_step(self, group: Mapping[str, Any], state: State) -> LinearStep | None:
        """What the step does to a change of the gradient, for stability limits (common/linear_step.py).

        Args:
            group: Its complete group.
            state: Of one parameter.

        Returns:
            None, the default, for a step that is not linear in the gradient.

        Raises:
            UnknownLimitError: if the group does not keep what has to be known.
        """
        return None

    @abstractmethod
    def initial_state(self, weight: Tensor, group: Mapping[str, Any]) -> State:
        """State of one parameter before its first step, complete: no entry is added later.

        Args:
            weight: The parameter, in the type the algorithm computes in; its values may be read, not kept.
            group: Its complete group.
        """

    @abstractmethod
    def update(
        self,
        group: Mapping[str, Any],
        weights: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        statistics: Statistics | None,
    ) -> None:
        """Change the weights in place by one step; never the gradients.

        Args:
            group: The complete group: `group["lr"]` and so on.
            weights: Weights with a gradient, float32 or float64 (low-precision parameters come as float32 copies).
            gradients: Their gradients, of the same type.
            states: Their states, to be changed in place (tensors may be replaced by others of the same shape and type).
            statistics: None, or one empty dictionary per weight to be filled with scalar tensors for people: what a
                solver did, for example. They must cost no host synchronisation.
        """


ALGORITHMS: dict[str, Algorithm] = {}
AlgorithmClass = TypeVar("AlgorithmClass", bound=Algorithm)


def register_algorithm(algorithm: type[AlgorithmClass]) -> type[AlgorithmClass]:
    """Make an algorithm known by its name, for parameter rules and `Composite`; returns the class unchanged.

    Raises:
        ValueError: if the name belongs to another class.
    """
    taken = ALGORITHMS.get(algorithm.name)
    if taken is not None and (type(taken).__module__, type(taken).__qualname__) != (
        algorithm.__module__,
        algorithm.__qualname__,
    ):
        raise ValueError(f"algorithm {algorithm.name!r} is registered already, by {type(taken).__module__}")
    ALGORITHMS[algorithm.name] = algorithm()
    return algorithm


def algorithm_of(group: Mapping[str, Any]) -> Algorithm:
    """The algorithm of a group.

    Raises:
        ValueError: if its name is unknown; the message names the nearest one and all there are.
    """
    name = group["algorithm"]
    if name not in ALGORITHMS:
        raise ValueError(unknown_name("algorithm", name, sorted(ALGORITHMS)))
    return ALGORITHMS[name]
