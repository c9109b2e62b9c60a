"""AutoSGM's options: the flat entries of a parameter group, and the author's tuples they come from."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from steepest.optim.autosgm.windows import SEQUENCES, UNITS, WINDOWS, check_window, window
from steepest.optim.checks import check_number
from steepest.optim.core.options import Options
from steepest.optim.registry import unknown_name

# In the order of the author's numbers 0, 1, 2, ...
Numerator = Literal["constant", "chebyshev", "maximum_bound", "markov", "elementwise_chebyshev"]
WindowShape = Literal[
    "none", "raised_cosine", "polynomial", "beta_exponential", "simple_polynomial", "logistic", "late_logistic"
]
WindowSequence = Literal["ordered", "kronecker"]
WindowUnit = Literal["epoch", "step", "restart"]
NUMERATORS = get_args(Numerator)

LearningRate = tuple[bool, float, int]
Filters = tuple[float, float, float, float, float, bool]
Window = tuple[int, int, float, float, int, int, int, int, float]
WeightDecay = tuple[float, int]
Epsilon = tuple[float, bool]


class AutoSGMOptions(Options):
    """The filters, the numerator and the window of AutoSGM.

    Attributes:
        numerator: "constant" (0 in the author's tuples), "chebyshev" (1), "maximum_bound" (2), "markov" (3),
            "elementwise_chebyshev" (4).
        adaptive: Divide by the denominator and use the numerator; without, this is momentum with learning rate lr.
        numerator_beta: Pole of the numerator's filters, in [0, 1).
        denominator_beta: Decay rate of the average of squared gradients, in [0, 1).
        beta: Pole of the gradient's filter, in [0, 1): the momentum.
        gamma: Zero of the gradient's filter, at most beta: 0 heavy ball, beta / (1 + beta) Nesterov, below 0 smoother.
            The default is the README's.
        gain: Input gain of the gradient's and the denominator's filter, at least 0; 0 means one minus the pole.
            It matters only without debias.
        debias: Make up for the filters' start at zero.
        decoupled_decay: Add the decay to the smoothed, normalized gradient instead of to the gradient.
        window: Learning-rate schedule inside the method: "none", "raised_cosine", "polynomial", "beta_exponential",
            "simple_polynomial", "logistic", "late_logistic". A `--schedule` multiplies it.
        window_sequence: "ordered" or "kronecker", golden-ratio positions in falling order.
        window_floor: Smallest factor, in [0, 1].
        window_order: Order or rate of the shape: at least 1 for the first two shapes, in (0, 1) for "beta_exponential",
            above 1 for "simple_polynomial", above 0 for the logistic ones.
        window_full: Rise, then fall, instead of falling only.
        window_epochs: Length of the window in epochs.
        window_steps_per_epoch: Steps in one of these epochs.
        window_unit: "step" or "epoch", when the factor changes; "restart": from step to step, anew each epoch.
        window_flat_top: Part of the window at factor 1, in [0, 1).
        eps: Added to the denominator, above 0, in units of the gradient.
        repeat_eps: Add eps under the root too.
        maximize: Go up; the sign of the whole step changes, decay included.
        track_dynamics: Keep the last step's rates and gradients (two tensors per parameter), for the statistics r, e
            and the share of coordinates that do not contract.
        compiled: Step by kernels that torch.compile makes in the first step, in one or two passes over the memory; it
            needs a C++ compiler for parameters on a CPU, Triton on a GPU.
    """

    numerator: Numerator = "markov"
    adaptive: bool = True
    numerator_beta: float = 0.9999
    denominator_beta: float = 0.999
    beta: float = 0.9
    gamma: float = 0.5528
    gain: float = 0.0
    debias: bool = True
    decoupled_decay: bool = False
    window: WindowShape = "none"
    window_sequence: WindowSequence = "ordered"
    window_floor: float = 0.0
    window_order: float = 2.0
    window_full: bool = False
    window_epochs: int = 1
    window_steps_per_epoch: int = 1
    window_unit: WindowUnit = "step"
    window_flat_top: float = 0.0
    eps: float = 1e-10
    repeat_eps: bool = True
    maximize: bool = False
    track_dynamics: bool = False
    compiled: bool = False


def options_of_tuples(
    lr_cfg: LearningRate, beta_cfg: Filters, rc_cfg: Window, wd_cfg: WeightDecay, eps_cfg: Epsilon
) -> dict[str, Any]:
    """The flat options that the author's tuples stand for; the tuples are described in `AutoSGM`.

    Raises:
        ValueError: if a tuple has another length or a number stands for nothing.
    """
    adaptive, lr, numerator = _entries("lr_cfg", lr_cfg, "aoptlr, lr_init, num_lrc")
    beta_n, beta_a, beta_i, gamma_i, eta_i, debias = _entries(
        "beta_cfg", beta_cfg, "beta_n, beta_a, beta_i, gamma_i, eta_i, debias"
    )
    rcm, inseq, x, n, m, tau, spe, cfact, e = _entries("rc_cfg", rc_cfg, "rcm, inseq, x, n, m, tau, spe, cfact, e")
    decay, level = _entries("wd_cfg", wd_cfg, "wd_cte, wd_lvl")
    eps, repeat_eps = _entries("eps_cfg", eps_cfg, "eps, repeat_eps")
    return {
        "adaptive": _named("aoptlr", adaptive, (False, True)),
        "lr": lr,
        "numerator": _named("num_lrc", numerator, NUMERATORS),
        "numerator_beta": beta_n,
        "denominator_beta": beta_a,
        "beta": beta_i,
        "gamma": gamma_i,
        "gain": eta_i,
        "debias": _named("debias", debias, (False, True)),
        "window": _named("rcm", rcm, WINDOWS),
        "window_sequence": _named("inseq", inseq, SEQUENCES),
        "window_floor": x,
        "window_order": n,
        "window_full": _named("m", m, (True, False)),
        "window_epochs": tau,
        "window_steps_per_epoch": spe,
        "window_unit": _named("cfact", cfact, UNITS),
        "window_flat_top": e,
        "weight_decay": decay,
        "decoupled_decay": _named("wd_lvl", level, (False, True)),
        "eps": eps,
        "repeat_eps": _named("repeat_eps", repeat_eps, (False, True)),
    }


def check_options(group: Mapping[str, Any]) -> None:
    """Refuse options of a complete group that are out of range.

    Raises:
        ValueError: naming the option, its value and what is allowed.
    """
    check_number("lr", group["lr"])
    check_number("weight_decay", group["weight_decay"])
    if group["numerator"] not in NUMERATORS:
        raise ValueError(unknown_name("numerator", str(group["numerator"]), list(NUMERATORS)))
    for name in ("numerator_beta", "denominator_beta", "beta"):
        check_number(name, group[name], high=1.0)
    check_number("gamma", group["gamma"], low=float("-inf"), high=group["beta"], include_high=True)
    check_number("gain", group["gain"])
    # Without a denominator, eps is only what zero weights are shifted by.
    check_number("eps", group["eps"], include_low=not group["adaptive"])
    for name, allowed in (("window", WINDOWS), ("window_sequence", SEQUENCES), ("window_unit", UNITS)):
        if group[name] not in allowed:
            raise ValueError(unknown_name(name, str(group[name]), list(allowed)))
    check_window(**_window_arguments(group))


def window_at(group: Mapping[str, Any], step: int) -> float:
    """The factor of the group's window at a step, counted from 1."""
    return 1.0 if group["window"] == "none" else window(step, **_window_arguments(group))


def _window_arguments(group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rcm": WINDOWS.index(group["window"]),
        "inseq": SEQUENCES.index(group["window_sequence"]),
        "x": group["window_floor"],
        "n": group["window_order"],
        "m": 0 if group["window_full"] else 1,
        "tau": group["window_epochs"],
        "spe": group["window_steps_per_epoch"],
        "cfact": UNITS.index(group["window_unit"]),
        "e": group["window_flat_top"],
    }


def _entries(name: str, entries: tuple[Any, ...], names: str) -> tuple[Any, ...]:
    if not isinstance(entries, tuple | list) or len(entries) != names.count(",") + 1:
        raise ValueError(f"{name} must be the tuple ({names}), not {entries!r}")
    return tuple(entries)


def _named(name: str, number: int, names: tuple[Any, ...]) -> Any:
    if number not in range(len(names)):
        raise ValueError(f"{name} must be one of {', '.join(map(str, range(len(names))))}, not {number!r}")
    return names[int(number)]
