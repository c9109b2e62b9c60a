"""One-line refusals of bad optimizer and schedule options."""

import math


def check_number(
    name: str,
    value: float,
    low: float = 0.0,
    high: float = math.inf,
    *,
    include_low: bool = True,
    include_high: bool = False,
) -> None:
    """Refuse an option that is not a finite number within an interval.

    Args:
        name: Name of the option, for the message.
        value: Value given for it.
        low: Lower end of the interval.
        high: Upper end of the interval; infinity for none (infinity itself is always refused).
        include_low: Whether `low` itself is allowed.
        include_high: Whether `high` itself is allowed.

    Raises:
        ValueError: if the value is not a number, not finite or outside the interval.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    inside = (
        is_number
        and (value >= low if include_low else value > low)
        and (value <= high if include_high else value < high)
    )
    if not inside:
        interval = f"{'[' if include_low else '('}{low:g}, {high:g}{']' if include_high else ')'}"
        raise ValueError(f"{name} must be a finite number in {interval}, not {value!r}")


def check_betas(betas: tuple[float, float]) -> None:
    """Refuse decay rates of Adam's two moving averages that are not two numbers in [0, 1).

    Raises:
        ValueError: naming the one that is wrong.
    """
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"betas must be two numbers in [0, 1), not {betas!r}")
    for index, beta in enumerate(betas):
        check_number(f"betas[{index}]", beta, high=1.0)
