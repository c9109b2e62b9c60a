"""muP: learning rates for networks that are wider than the one they were tuned for (arXiv 2203.03466).

A network says how much wider each of its parameters is than at the base width by an attribute `width_ratios`: by
parameter name, the ratio of the inputs of a unit and the ratio of the outputs. The learning rate and weight decay that
an optimizer is given are those of the base width. Each algorithm multiplies the rate of a parameter by its own factor
and divides its decay by it, so that what decay takes away in a step stays the same.
"""

from collections.abc import Callable, Mapping

from torch import nn

Ratios = tuple[float, float]
"""How many times more inputs a unit has than at the base width, and how many times more outputs there are."""

WidthRule = Callable[[float, float], float]
"""From both ratios to the factor of the learning rate."""


def gradient_descent_factor(fan_in: float, fan_out: float) -> float:
    """Factor of rules that are linear in the gradient: more outputs make it smaller, more inputs add up."""
    return fan_out / fan_in


def adaptive_factor(fan_in: float, fan_out: float) -> float:
    """Factor of rules whose steps have the same size in each coordinate (Adam, RMSprop, Lion): inputs add up."""
    return 1 / fan_in


def width_ratios(module: nn.Module) -> dict[str, Ratios]:
    """The ratios of all parameters of a module by name, as its networks say them; none without muP."""
    found: dict[str, Ratios] = {}
    for place, child in module.named_modules():
        ratios = child.__dict__.get("width_ratios")
        if isinstance(ratios, Mapping):
            found |= {f"{place}.{name}" if place else name: ratio for name, ratio in ratios.items()}
    return found


def width_factor(ratios: Ratios | None, rule: WidthRule | None, name: str) -> float:
    """Factor of the learning rate of a parameter.

    Args:
        ratios: Of the parameter; None where the network says nothing.
        rule: The algorithm's factor of both ratios; None if it has none.
        name: Of the algorithm, for the error.

    Raises:
        ValueError: if the parameter is of another width and the algorithm has no factor.
    """
    if ratios is None or tuple(ratios) == (1.0, 1.0):
        return 1.0
    if rule is None:
        raise ValueError(
            f"muP has no learning-rate factors for {name}: use sgd, momentum, nesterov, rmsprop, adam, adamw, lion, "
            "muon or composite, or --model.network.parametrization standard"
        )
    return rule(*ratios)
