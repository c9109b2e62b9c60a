"""AutoSGM written as its equations read: one tensor after another, one operation after another.

Slow and meant to be read; `steepest.optim.autosgm.AutoSGM` computes the same.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest.optim.autosgm.options import (
    AutoSGMOptions,
    Epsilon,
    Filters,
    LearningRate,
    WeightDecay,
    Window,
    check_options,
    options_of_tuples,
    window_at,
)

State = dict[str, Any]
CHEBYSHEV_FACTOR = 4.0


class ReferenceAutoSGM(Optimizer):
    """AutoSGM, literally; arguments as of `steepest.optim.autosgm.AutoSGM`, which is the one to train with."""

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
    ) -> None:
        options = {**vars(AutoSGMOptions()), **options_of_tuples(lr_cfg, beta_cfg, rc_cfg, wd_cfg, eps_cfg)}
        options["maximize"] = maximize
        check_options(options)
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Change all parameters that have a gradient by one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._step(w, w.grad, self.state[w], group)
        return loss

    def _step(self, w: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        t = state["step"] = state.get("step", 0) + 1
        lr, eps, beta_i, gamma_i, eta_i = (group[name] for name in ("lr", "eps", "beta", "gamma", "gain"))

        # 0. Zeros would never move under a numerator that multiplies by the weight.
        if t == 1:
            w.copy_(torch.where(w.abs() < eps, w + eps, w))

        # 1. Weight decay that enters the filter.
        if not group["decoupled_decay"]:
            g = g + group["weight_decay"] * w

        # 2. Denominator.
        d = torch.ones_like(w)
        if group["adaptive"]:
            beta_a = group["denominator_beta"]
            p = lowpass(state, "moment", g * g, beta_a, 0.0, eta_i)
            if group["debias"]:
                p = p * debias(beta_a, eta_i, t)
            if group["repeat_eps"]:
                p = p + eps
            d = p.sqrt() + eps

        # 3. The gradient normalized, and smoothed and normalized.
        u = g / d
        y = lowpass(state, "gradient", g, beta_i, gamma_i, eta_i)
        if group["debias"]:
            y = y * debias(beta_i, eta_i, t)
        v = y / d

        # 4. Weight decay outside the filter.
        if group["decoupled_decay"]:
            v = v + (1 - beta_i) / (1 - gamma_i) * group["weight_decay"] * w

        # 5. Numerator, window, update.
        a = NUMERATORS[group["numerator"]](state, group, w, u, v, d) if group["adaptive"] else lr
        step = window_at(group, t) * a * v
        w.copy_(w + step if group["maximize"] else w - step)


def lowpass(state: State, name: str, x: Tensor, beta: float, gamma: float = 0.0, eta: float = 0.0) -> Tensor:
    """First-order filter with pole beta, zero gamma and input gain eta (0 for 1 - beta), transposed form."""
    eta = eta or 1 - beta
    s = state.get(name, torch.zeros_like(x)) + eta * x
    y = s / (1 - gamma)
    state[name] = beta * s - gamma * eta * x
    return y


def lowpass_direct(state: State, name: str, x: Tensor, beta: float, gamma: float = 0.0, eta: float = 0.0) -> Tensor:
    """The same filter in direct form."""
    eta = eta or 1 - beta
    old = state.get(name, torch.zeros_like(x))
    new = beta * old + eta * x
    state[name] = new
    return (new - gamma * old) / (1 - gamma)


def debias(beta: float, eta: float, t: int) -> float:
    """What makes up for the filter's start at zero, after t steps."""
    return (1 - beta) / (eta or 1 - beta) / (1 - beta**t)


def huber(x: Tensor, m: Tensor, bound: Tensor) -> Tensor:
    """The sign of x times its magnitude m, at most bound."""
    return x / m * torch.minimum(m, bound)


def tukey(q: Tensor) -> Tensor:
    """Tukey's biweight times its argument: 0 from 1 on."""
    q = q.clamp(max=1.0)
    return (1 - q * q) ** 2 * q


def smooth(state: State, x: Tensor) -> Tensor:
    """Average over the tensor and a few steps: one learning rate per layer."""
    return lowpass_direct(state, "numerator", x.mean(), 0.1)


def constant(state: State, group: dict[str, Any], w: Tensor, u: Tensor, v: Tensor, d: Tensor) -> float:
    """Numerator 0."""
    return group["lr"]


def chebyshev(state: State, group: dict[str, Any], w: Tensor, u: Tensor, v: Tensor, d: Tensor) -> Tensor:
    """Numerator 1: steps whose length is far from the usual one are shortened."""
    beta_n, eps = group["numerator_beta"], group["eps"]
    m = lowpass(state, "length", torch.linalg.vector_norm(v), beta_n)
    q = torch.linalg.vector_norm(v - m) + eps
    b = lowpass(state, "deviation", q * q, beta_n).sqrt() + eps
    return group["lr"] * torch.minimum(q, CHEBYSHEV_FACTOR * b) / q


def maximum_bound(state: State, group: dict[str, Any], w: Tensor, u: Tensor, v: Tensor, d: Tensor) -> Tensor:
    """Numerator 2: an upper bound of the correlation of weight and gradient."""
    o = lowpass_direct(state, "correlation", (w * w + u * u) * group["lr"], group["numerator_beta"])
    return smooth(state, o.clamp(max=group["lr"]))


def markov(state: State, group: dict[str, Any], w: Tensor, u: Tensor, v: Tensor, d: Tensor) -> Tensor:
    """Numerator 3: the correlation of weight and gradient, outliers bounded by their average magnitude."""
    beta_n = group["numerator_beta"]
    lowpass(state, "power", w * w, beta_n)
    r = state["power"]
    x = w * u
    m = x.abs() + group["eps"]
    bound = CHEBYSHEV_FACTOR * lowpass(state, "magnitude", m, beta_n)
    rate = group["lr"] / (1 + r)
    o = lowpass(state, "correlation", rate * huber(x, m, bound), beta_n, eta=1.0)
    return smooth(state, _clip(o.abs(), tukey(d) * rate, rate * (1 + r) ** 2))


def elementwise_chebyshev(state: State, group: dict[str, Any], w: Tensor, u: Tensor, v: Tensor, d: Tensor) -> Tensor:
    """Numerator 4: the correlation of weight and gradient, outliers bounded by their standard deviation."""
    beta_n, eps = group["numerator_beta"], group["eps"]
    r = lowpass_direct(state, "power", w * w, beta_n)
    x = w * u
    q = (x - lowpass_direct(state, "average", x, beta_n)).abs() + eps
    b = lowpass_direct(state, "deviation", q * q, beta_n).sqrt() + eps
    rate = group["lr"] / (1 + r)
    o = lowpass_direct(state, "correlation", rate * huber(x, q, b), beta_n, eta=1.0)
    return smooth(state, _clip(o.abs(), tukey(d) * rate, rate * (1 + r) ** 2))


def _clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)


NUMERATORS: dict[str, Callable[..., Any]] = {
    "constant": constant,
    "chebyshev": chebyshev,
    "maximum_bound": maximum_bound,
    "markov": markov,
    "elementwise_chebyshev": elementwise_chebyshev,
}
