"""Windows: the learning-rate schedules built into AutoSGM, as pure functions of the step; no torch.

A window is a factor of the learning rate over a given length: a position `f` from 0 to 1 inside the window, a shape
that falls from 1 to 0 over it, and a floor. The argument names are those of the author's `rc_cfg`; `WINDOWS`,
`SEQUENCES` and `UNITS` list the names in words of the numbers 0, 1, 2, ...
"""

import math
from collections.abc import Iterator
from functools import lru_cache

from steepest.optim.checks import check_number

WINDOWS = (
    "none", "raised_cosine", "polynomial", "beta_exponential", "simple_polynomial", "logistic", "late_logistic",
)  # fmt: skip
SEQUENCES = ("ordered", "kronecker")
UNITS = ("epoch", "step", "restart")
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def window(
    step: int, *, rcm: int, inseq: int, x: float, n: float, m: int, tau: int, spe: int, cfact: int, e: float
) -> float:
    """The window's factor at one step.

    Args:
        step: Number of the step, from 1. After the last step of the window the factor stays at its end, unless it
            restarts (`cfact` 2).
        rcm: Shape (`WINDOWS`): 0 none (always 1), 1 raised cosine, 2 polynomial, 3 beta-exponential, 4 simple
            polynomial, 5 logistic with its inflection in the middle, 6 logistic with its inflection at 7/8 (not
            rescaled to the whole interval: it begins above 1 and ends above the floor).
        inseq: Sequence of positions: 0 ordered, 1 Kronecker's golden-ratio sequence, its factors in falling order.
        x: Floor: the smallest factor of shapes that reach 0, in [0, 1].
        n: Order or rate of the shape: at least 1 for shapes 1 and 2, in (0, 1) for 3, above 1 for 4, above 0 for 5, 6.
        m: 1 for the falling half alone, 0 for the full window: up, then down.
        tau: Number of epochs, at least 1.
        spe: Steps per epoch, at least 1.
        cfact: Unit (`UNITS`): 0 the factor changes from epoch to epoch, over `tau` epochs; 1 from step to step, over
            `tau * spe` steps; 2 likewise, over `spe` steps, and restarts.
        e: Flat top: the part of the positions that stays at factor 1, in [0, 1).

    Returns:
        The factor by which the learning rate is multiplied.
    """
    if rcm == 0:
        return 1.0
    length = _length(tau, spe, cfact)
    index = (step - 1) // spe if cfact == 0 else step - 1
    if cfact == 2:
        index %= length
    if inseq == 1:
        value = _kronecker(length, rcm, n, m, e)[index] if index < length else _shape(1.0, rcm, n)
    else:
        value = _value(min(index / length, 1.0), rcm, n, m, e)
    return x + (1 - x) * value


def window_factors(
    steps: int, *, rcm: int, inseq: int, x: float, n: float, m: int, tau: int, spe: int, cfact: int, e: float
) -> list[float]:
    """The factors of steps 1 to `steps`; the other arguments as in `window`."""
    options = {"rcm": rcm, "inseq": inseq, "x": x, "n": n, "m": m, "tau": tau, "spe": spe, "cfact": cfact, "e": e}
    return [window(step, **options) for step in range(1, steps + 1)]  # type: ignore[arg-type]


def check_window(*, rcm: int, inseq: int, x: float, n: float, m: int, tau: int, spe: int, cfact: int, e: float) -> None:
    """Refuse arguments that `window` has no answer for.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    for name, value, allowed in (
        ("window shape rcm", rcm, range(len(WINDOWS))),
        ("window sequence inseq", inseq, range(len(SEQUENCES))),
        ("window half m", m, range(2)),
        ("window unit cfact", cfact, range(len(UNITS))),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, not {value!r}")
    for name, value in (("window epochs tau", tau), ("window steps per epoch spe", spe)):
        if value != int(value) or value < 1:
            raise ValueError(f"{name} must be a whole number from 1 on, not {value!r}")
    check_number("window floor x", x, high=1.0, include_high=True)
    check_number("window flat top e", e, high=1.0)
    if rcm in (1, 2):
        check_number("window order n", n, low=1.0)
    elif rcm == 3:
        check_number("window order n", n, high=1.0, include_low=False)
    elif rcm == 4:
        check_number("window order n", n, low=1.0, include_low=False)
    elif rcm in (5, 6):
        check_number("window order n", n, include_low=False)


def _length(tau: int, spe: int, cfact: int) -> int:
    """Number of different positions in one window."""
    return (tau, tau * spe, spe)[cfact]


def _value(f: float, rcm: int, n: float, m: int, e: float) -> float:
    """Value at a position in [0, 1] of the whole window: folded for the full one, then the flat top, then the shape."""
    if m == 0:
        f = abs(2 * f - 1)
    return 1.0 if f < e else _shape((f - e) / (1 - e), rcm, n)


def _shape(f: float, rcm: int, n: float) -> float:
    """The falling shapes over [0, 1]."""
    match rcm:
        case 1:
            return math.cos(math.pi * f / 2) ** n
        case 2:
            return (1 - f) ** n
        case 3:
            return (n**f - n) / (1 - n)
        case 4:
            return (1 - f**n) ** 2
        case 5:
            first, last = _logistic(n, 0.0, 0.5), _logistic(n, 1.0, 0.5)
            return (_logistic(n, f, 0.5) - last) / (first - last)
        case _:
            # The author's range is that of the logistic curve with its inflection in the middle.
            first, last = _logistic(n, 0.0, 0.5), _logistic(n, 1.0, 0.5)
            return (_logistic(n, f, 0.875) - last) / (first - last)


def _logistic(n: float, f: float, inflection: float) -> float:
    return 1 / (1 + 2 ** (2 * n * (f - inflection)))


@lru_cache(maxsize=16)
def _kronecker(length: int, rcm: int, n: float, m: int, e: float) -> tuple[float, ...]:
    """Values over one window at the positions frac(k * golden ratio), from the largest down."""

    def values() -> Iterator[float]:
        for k in range(length):
            yield _value(math.modf(k * GOLDEN_RATIO)[0], rcm, n, m, e)

    return tuple(sorted(values(), reverse=True))
