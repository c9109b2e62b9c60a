"""AutoSGM: momentum and Adam as points of one family of filters and learning rates.

The author's README: https://github.com/somefunAgba/autosgm. A first-order low-pass filter with pole `beta` and zero
`gamma` smooths the gradient (gamma 0 is Polyak's heavy ball, beta / (1 + beta) Nesterov's momentum, below 0 it smooths
more). The smoothed gradient is multiplied by a learning rate that changes from step to step: a window, times a
numerator, which estimates how weights and gradients correlate, over a denominator, the root of the average squared
gradient. With the numerator constant and gamma 0 this is Adam.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.optim.autosgm import algorithm as _algorithm  # registers the update rule  # noqa: F401
from steepest.optim.autosgm.options import (
    AutoSGMOptions,
    Epsilon,
    Filters,
    LearningRate,
    WeightDecay,
    Window,
    options_of_tuples,
)
from steepest.optim.autosgm.reference import ReferenceAutoSGM
from steepest.optim.core.composite import Composite, composite_of
from steepest.optim.core.options import SharedOptions
from steepest.optim.core.rounding import Rounding
from steepest.optim.registry import OPTIMIZERS

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
        rc_cfg: (rcm, inseq, x, n, m, tau, spe, cfact, e): the window, see `steepest.optim.autosgm.windows.window`; none
            by default, since its length is that of the run.
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
    module: nn.Module, lr: float = 1e-3, *, own: AutoSGMOptions, weight_decay: float = 0.0, shared: SharedOptions
) -> Optimizer:
    """AutoSGM (github.com/somefunAgba/autosgm): w <- w - window * numerator * filter(g) / sqrt(average of g^2).

    filter(g)_t = beta * filter(g)_{t-1} + (1 - beta) / (1 - gamma) * (g_t - gamma * g_{t-1}). Numerator "constant" with
    gamma 0 is Adam, with gamma = beta / (1 + beta) its Nesterov form; the other numerators are one number per tensor,
    at most about lr. `AutoSGM` takes the tuples of the author's README in place of these options.

    Args:
        module: The model; its trainable parameters are optimized. Exact zeros are shifted by eps at the first step.
        lr: Learning rate, at least 0: the size of a step in each coordinate (numerator "constant") or its bound.
        weight_decay: Decay of matrices, at least 0.

    Returns:
        A `Composite` whose groups are of algorithm "autosgm".

    Raises:
        ValueError: if an option is out of range, `compiled` is not possible, or nothing is trainable.
    """
    return composite_of(module, "autosgm", lr, weight_decay, own, shared)


def _groups(params: Iterable[Any], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Bare parameters or groups, with the options of those that have none of their own."""
    params = [params] if isinstance(params, Tensor) else list(params)
    if params and isinstance(params[0], dict):
        return [{**options, **group} for group in params]
    return [{**options, "params": params}]
