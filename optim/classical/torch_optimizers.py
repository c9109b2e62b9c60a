"""The classical optimizers: `torch.optim` with weight decay where it belongs and the fastest implementation.

Weight decay applies to matrices, embeddings and the output layer, never to biases and normalization
(optim/core/roles.py). Every `lr` may be 0, which freezes the weights.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.optim.checks import check_betas, check_number
from steepest.optim.core.algorithms import AMSGradOptions
from steepest.optim.core.grouping import torch_groups
from steepest.optim.core.implementation import fastest, keep_implementation
from steepest.optim.core.layout import in_layout_of, is_laid_out_as, lay_out_state
from steepest.optim.core.naming import keep_names
from steepest.optim.core.options import GroupOptions
from steepest.optim.core.width_scaling import adaptive_factor, gradient_descent_factor
from steepest.optim.registry import OPTIMIZERS


class _OwnLayout(Optimizer):
    """A fused step that is right for gradients and state in any layout.

    PyTorch's fused kernels take them to lie in memory as the weight does. A gradient from `torch.autograd.grad` need
    not, nor the state of a contiguous model that a channels_last one has loaded: entries of others would be taken for
    theirs, without a word. Here they are copied into the weight's layout where they differ.
    """

    def _init_group(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], *states: Any) -> Any:
        # PyTorch collects what goes into a step here, after the closure.
        found = super()._init_group(group, params, grads, *states)  # type: ignore[misc]
        if not group["fused"]:
            return found
        averages = zip(params, states[0], strict=False)  # none without momentum, None before the first step
        if not all(average is None or is_laid_out_as(parameter, average) for parameter, average in averages):
            for parameter in params:
                lay_out_state(self.state[parameter], parameter)
            for collected in (params, grads, *states):
                collected.clear()
            found = super()._init_group(group, params, grads, *states)  # type: ignore[misc]
        grads[:] = in_layout_of(params, grads)
        return found


class SGD(_OwnLayout, torch.optim.SGD):
    """`torch.optim.SGD`, right for any layout in memory."""


class Adam(_OwnLayout, torch.optim.Adam):
    """`torch.optim.Adam`, right for any layout in memory."""


class AdamW(_OwnLayout, torch.optim.AdamW):
    """`torch.optim.AdamW`, right for any layout in memory."""


class TorchOptions(GroupOptions):
    """What PyTorch's optimizers with a fused step share.

    Attributes:
        fused: Use the fused step; None chooses the fastest one there is.
    """

    fused: bool | None = None


@OPTIMIZERS.register(aliases=("gradient_descent",))
def sgd(module: nn.Module, lr: float = 0.1, weight_decay: float = 0.0, *, shared: TorchOptions) -> Optimizer:
    """Gradient descent on mini-batches: w <- w - lr * g.

    Args:
        lr: Learning rate, at least 0. On a quadratic of curvature h it is stable below 2 / h.
        weight_decay: Coupled decay, at least 0: adds weight_decay * w to the gradient of matrices.

    Returns:
        A `torch.optim.SGD`.
    """
    return _build(SGD, module, lr, weight_decay, shared)


@OPTIMIZERS.register(aliases=("heavy_ball", "sgdm"))
def momentum(
    module: nn.Module,
    lr: float = 0.05,
    momentum: float = 0.9,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    *,
    shared: TorchOptions,
) -> Optimizer:
    """Heavy-ball momentum (Polyak 1964): v <- momentum * v + (1 - dampening) * g, w <- w - lr * v.

    Args:
        lr: Learning rate, at least 0. Smaller than for `sgd`, since a steady gradient is amplified 1 / (1 - momentum)
            times.
        momentum: How much of the velocity stays from step to step, in [0, 1).
        dampening: How much of the new gradient is left out, in [0, 1]; equal to `momentum` the velocity is an
            exponential moving average. (The first velocity is the whole gradient.)
        weight_decay: Coupled decay, at least 0: adds weight_decay * w to the gradient of matrices.

    Returns:
        A `torch.optim.SGD`.
    """
    check_number("momentum", momentum, high=1.0)
    check_number("dampening", dampening, high=1.0, include_high=True)
    return _build(SGD, module, lr, weight_decay, shared, momentum=momentum, dampening=dampening)


@OPTIMIZERS.register(aliases=("nag",))
def nesterov(
    module: nn.Module, lr: float = 0.05, momentum: float = 0.9, weight_decay: float = 0.0, *, shared: TorchOptions
) -> Optimizer:
    """Nesterov's momentum (Sutskever et al. 2013): v <- momentum * v + g, w <- w - lr * (g + momentum * v).

    The gradient is that of the look-ahead point: the weights kept are the look-ahead weights themselves.

    Args:
        lr: Learning rate, at least 0. Smaller than for `sgd`, since a steady gradient is amplified 1 / (1 - momentum)
            times.
        momentum: How much of the velocity stays from step to step, in (0, 1).
        weight_decay: Coupled decay, at least 0: adds weight_decay * w to the gradient of matrices.

    Returns:
        A `torch.optim.SGD`.
    """
    check_number("momentum", momentum, high=1.0, include_low=False)
    return _build(SGD, module, lr, weight_decay, shared, momentum=momentum, nesterov=True)


@OPTIMIZERS.register
def rmsprop(
    module: nn.Module,
    lr: float = 1e-3,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
    *,
    shared: GroupOptions,
) -> Optimizer:
    """RMSprop (Tieleman and Hinton 2012): w <- w - lr * g / (sqrt(s) + eps), s an average of g^2.

    `eps` is outside the root, PyTorch's convention; other texts write sqrt(s + eps), where the same number acts far
    more strongly. There is no fused step for it.

    Args:
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        alpha: Decay rate of the average of squared gradients, in [0, 1).
        eps: Added to the root, at least 0, in units of the gradient.
        momentum: Heavy-ball momentum on the scaled gradient, in [0, 1).
        centered: Subtract the squared average gradient from s: a variance in place of a second moment.
        weight_decay: Coupled decay, at least 0: adds weight_decay * w to the gradient of matrices.

    Returns:
        A `torch.optim.RMSprop`.
    """
    check_number("alpha", alpha, high=1.0)
    check_number("eps", eps)
    check_number("momentum", momentum, high=1.0)
    options = {"alpha": alpha, "eps": eps, "momentum": momentum, "centered": centered}
    return _build(torch.optim.RMSprop, module, lr, weight_decay, shared, **options)


@OPTIMIZERS.register
def adam(
    module: nn.Module, lr: float = 1e-3, *, own: AMSGradOptions, weight_decay: float = 0.0, shared: TorchOptions
) -> Optimizer:
    """Adam (arXiv 1412.6980): RMSprop with momentum and bias correction.

    Args:
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        weight_decay: Coupled decay, at least 0: adds weight_decay * w to the gradient of matrices, where Adam's scaling
            weakens it; `adamw` decouples it.

    Returns:
        A `torch.optim.Adam`.
    """
    return _build_adam(Adam, module, lr, weight_decay, shared, own)


@OPTIMIZERS.register
def adamw(
    module: nn.Module, lr: float = 1e-3, *, own: AMSGradOptions, weight_decay: float = 0.01, shared: TorchOptions
) -> Optimizer:
    """AdamW (arXiv 1711.05101): Adam with decoupled weight decay, w <- (1 - lr * weight_decay) * w - Adam's step.

    Args:
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        weight_decay: Decoupled decay of matrices, at least 0; each step takes away the fraction lr * weight_decay.

    Returns:
        A `torch.optim.AdamW`.
    """
    return _build_adam(AdamW, module, lr, weight_decay, shared, own)


def _build_adam(
    algorithm: type[Optimizer],
    module: nn.Module,
    lr: float,
    weight_decay: float,
    shared: TorchOptions,
    own: AMSGradOptions,
) -> Optimizer:
    check_betas(own.betas)
    check_number("eps", own.eps)
    return _build(algorithm, module, lr, weight_decay, shared, **vars(own))


def _build(
    algorithm: type[Optimizer],
    module: nn.Module,
    lr: float,
    weight_decay: float,
    shared: GroupOptions,
    **options: Any,
) -> Optimizer:
    check_number("lr", lr)
    fused = shared.fused if isinstance(shared, TorchOptions) else None
    width_rule = gradient_descent_factor if algorithm is SGD else adaptive_factor
    groups = torch_groups(
        module, weight_decay=weight_decay, lr=lr, shared=shared, allowed=list(options), width_rule=width_rule
    )
    options |= {"lr": lr, "weight_decay": weight_decay, **fastest(algorithm, module, fused)}
    if options.get("nesterov") and "foreach" in options:
        options["foreach"] = False  # PyTorch's foreach SGD writes Nesterov's step into the gradients
    return keep_names(keep_implementation(algorithm(groups, **options)), module)
