"""AutoSGM: momentum and Adam as points of one family of filters and learning rates.

The author's README: https://github.com/somefunAgba/autosgm. A first-order low-pass filter with pole `beta` and zero
`gamma` smooths the gradient (gamma 0 is Polyak's heavy ball, beta / (1 + beta) Nesterov's momentum, below 0 it smooths
more). The smoothed gradient is multiplied by a learning rate that changes from step to step: a window, times a
numerator, which estimates how weights and gradients correlate, over a denominator, the root of the average squared
gradient. With the numerator constant and gamma 0 this is Adam.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from optim.autosgm import algorithm as _algorithm  # registers the update rule  # noqa: F401
from optim.autosgm.options import (
    Epsilon,
    Filters,
    LearningRate,
    Numerator,
    WeightDecay,
    Window,
    WindowSequence,
    WindowShape,
    WindowUnit,
    options_of_tuples,
)
from optim.autosgm.reference import ReferenceAutoSGM
from optim.composite import Composite
from optim.grouping import algorithm_groups
from optim.registry import OPTIMIZERS
from optim.rounding import Rounding
from optim.rules import ParameterRule

__all__ = ["AutoSGM", "ReferenceAutoSGM", "autosgm"]


class AutoSGM(Composite):
    """AutoSGM over bare parameters, with the tuples of its author's README; `autosgm` has the same options in words.

    Args:
        params: Tensors, pairs of name and tensor, or groups of them with options of the update rule.
        lr_cfg: (aoptlr, lr_init, num_lrc): whether there is a denominator and a numerator at all (False: the learning
            rate is `lr_init` times the window); the learning rate or, of the adaptive ones, the trust region, at least
            0; the numerator, 0 constant, 1 Chebyshev, 2 maximum bound, 3 Markov, 4 elementwise Chebyshev.
        beta_cfg: (beta_n, beta_a, beta_i, gamma_i, eta_i, debias): poles in [0, 1) of the numerator's, the
            denominator's and the gradient's filter; zero of the gradient's filter, at most `beta_i`; input gain of
            the latter two filters, 0 for one minus the pole; whether to make up for their start at zero.
        rc_cfg: (rcm, inseq, x, n, m, tau, spe, cfact, e): the window, see `optim.autosgm_windows.window`; none by
            default, since its length is that of the run.
        wd_cfg: (wd_cte, wd_lvl): weight decay of all parameters, at least 0; 0 adds it to the gradient, 1 to the
            smoothed and normalized gradient.
        eps_cfg: (eps, repeat_eps): added to the denominator, above 0; whether also under its root. Weights below eps
            are shifted by it at the first step, so that zeros can move.
        maximize: Go up; it is the sign of the whole step that changes, weight decay included.
        track_dynamics: Keep the last step's rates and gradients (two tensors per parameter), so that `last_stats` has
            r_t, e_t and the share that does not contract, besides alpha_t and dw_t.
        compiled: Step by kernels that torch.compile makes, see `autosgm`.
        rounding: How 16-bit parameters take up a step, see `Composite`.

    Raises:
        ValueError: if an option is out of range, or `compiled` is not possible.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr_cfg: LearningRate = (True, 1e-3, 3),
        beta_cfg: Filters = (0.9999, 0.999, 0.9, 0.5528, 0, True),
        rc_cfg: Window = (0, 0, 0, 2, 1, 1, 1, 1, 0),
        wd_cfg: WeightDecay = (0.0, 0),
        eps_cfg: Epsilon = (1e-10, True),
        *,
        maximize: bool = False,
        track_dynamics: bool = False,
        compiled: bool = False,
        rounding: Rounding = "nearest",
    ) -> None:
        options = {
            **options_of_tuples(lr_cfg, beta_cfg, rc_cfg, wd_cfg, eps_cfg),
            "algorithm": "autosgm",
            "maximize": maximize,
            "track_dynamics": track_dynamics,
            "compiled": compiled,
        }
        super().__init__(_groups(params, options), rounding)


@OPTIMIZERS.register
def autosgm(
    module: nn.Module,
    lr: float = 1e-3,
    numerator: Numerator = "markov",
    adaptive: bool = True,
    numerator_beta: float = 0.9999,
    denominator_beta: float = 0.999,
    beta: float = 0.9,
    gamma: float = 0.5528,
    gain: float = 0.0,
    debias: bool = True,
    weight_decay: float = 0.0,
    decoupled_decay: bool = False,
    window: WindowShape = "none",
    window_sequence: WindowSequence = "ordered",
    window_floor: float = 0.0,
    window_order: float = 2.0,
    window_full: bool = False,
    window_epochs: int = 1,
    window_steps_per_epoch: int = 1,
    window_unit: WindowUnit = "step",
    window_flat_top: float = 0.0,
    eps: float = 1e-10,
    repeat_eps: bool = True,
    maximize: bool = False,
    track_dynamics: bool = False,
    compiled: bool = False,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
    rounding: Rounding = "nearest",
) -> Optimizer:
    """AutoSGM (github.com/somefunAgba/autosgm): w <- w - window * numerator * filter(g) / sqrt(average of g^2).

    filter(g)_t = beta * filter(g)_{t-1} + (1 - beta) / (1 - gamma) * (g_t - gamma * g_{t-1}). Numerator "constant" with
    gamma 0 is Adam, with gamma = beta / (1 + beta) its Nesterov form; the other numerators are one number per tensor,
    at most about lr. `AutoSGM` takes the tuples of the author's README in place of these options.

    Args:
        module: The model; its trainable parameters are optimized. Exact zeros are shifted by eps at the first step.
        lr: Learning rate, at least 0: the size of a step in each coordinate (numerator "constant") or its bound.
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
        weight_decay: Decay of matrices, at least 0.
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
        rules: Exceptions for parameters chosen by name, module class, role or dimensions; the last match wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.
        rounding: How 16-bit parameters take up a step: "nearest", "kahan" or "stochastic".

    Returns:
        A `Composite` whose groups are of algorithm "autosgm".

    Raises:
        ValueError: if an option is out of range, `compiled` is not possible, or nothing is trainable.
    """
    options = {
        "numerator": numerator,
        "adaptive": adaptive,
        "numerator_beta": numerator_beta,
        "denominator_beta": denominator_beta,
        "beta": beta,
        "gamma": gamma,
        "gain": gain,
        "debias": debias,
        "decoupled_decay": decoupled_decay,
        "window": window,
        "window_sequence": window_sequence,
        "window_floor": window_floor,
        "window_order": window_order,
        "window_full": window_full,
        "window_epochs": window_epochs,
        "window_steps_per_epoch": window_steps_per_epoch,
        "window_unit": window_unit,
        "window_flat_top": window_flat_top,
        "eps": eps,
        "repeat_eps": repeat_eps,
        "maximize": maximize,
        "track_dynamics": track_dynamics,
        "compiled": compiled,
    }
    groups = algorithm_groups(
        module,
        "autosgm",
        lr=lr,
        weight_decay=weight_decay,
        options={"autosgm": options},
        rules=rules,
        layer_decay=layer_decay,
    )
    return Composite(groups, rounding)


def _groups(params: Iterable[Any], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Bare parameters or groups, with the options of those that have none of their own."""
    params = [params] if isinstance(params, Tensor) else list(params)
    if params and isinstance(params[0], dict):
        return [{**options, **group} for group in params]
    return [{**options, "params": params}]
