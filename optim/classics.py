"""The classical optimizers: `torch.optim` with weight decay where it belongs and the fastest implementation.

Weight decay applies to matrices, embeddings and the output layer, never to biases and normalization (optim/roles.py).
Every `lr` may be 0, which freezes the weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from optim.checks import check_betas, check_number
from optim.grouping import torch_groups
from optim.implementation import fastest, keep_implementation
from optim.naming import keep_names
from optim.registry import OPTIMIZERS
from optim.rules import ParameterRule
from optim.width_scaling import adaptive_factor, gradient_descent_factor


@OPTIMIZERS.register(aliases=("gradient_descent",))
def sgd(
    module: nn.Module,
    lr: float = 0.1,
    weight_decay: float = 0.0,
    fused: bool | None = None,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
) -> Optimizer:
    """Gradient descent on mini-batches: w <- w - lr * g.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0. On a quadratic of curvature h it is stable below 2 / h.
        weight_decay: Coupled decay, at least 0: adds weight_decay * w to the gradient of matrices.
        fused: Use the fused step; None chooses the fastest one there is.
        rules: Exceptions for chosen parameters (optim/rules.py), the last that sets something wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.

    Returns:
        A `torch.optim.SGD`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    check_number("lr", lr)
    return _build(torch.optim.SGD, module, weight_decay, fused, rules, layer_decay, lr=lr)


@OPTIMIZERS.register(aliases=("heavy_ball", "sgdm"))
def momentum(
    module: nn.Module,
    lr: float = 0.05,
    momentum: float = 0.9,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    fused: bool | None = None,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
) -> Optimizer:
    """Heavy-ball momentum (Polyak 1964): v <- momentum * v + (1 - dampening) * g, w <- w - lr * v.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0. Smaller than for `sgd`, since a steady gradient is amplified 1 / (1 - momentum)
            times.
        momentum: How much of the velocity stays from step to step, in [0, 1).
        dampening: How much of the new gradient is left out, in [0, 1]; equal to `momentum` the velocity is an
            exponential moving average. (The first velocity is the whole gradient.)
        weight_decay: Coupled decay, at least 0: adds weight_decay * w to the gradient of matrices.
        fused: Use the fused step; None chooses the fastest one there is.
        rules: Exceptions for chosen parameters (optim/rules.py), the last that sets something wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.

    Returns:
        A `torch.optim.SGD`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    check_number("lr", lr)
    check_number("momentum", momentum, high=1.0)
    check_number("dampening", dampening, high=1.0, include_high=True)
    return _build(
        torch.optim.SGD, module, weight_decay, fused, rules, layer_decay, lr=lr, momentum=momentum, dampening=dampening
    )


@OPTIMIZERS.register(aliases=("nag",))
def nesterov(
    module: nn.Module,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    fused: bool | None = None,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
) -> Optimizer:
    """Nesterov's momentum (Sutskever et al. 2013): v <- momentum * v + g, w <- w - lr * (g + momentum * v).

    The gradient is that of the look-ahead point: the weights kept are the look-ahead weights themselves.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0. Smaller than for `sgd`, since a steady gradient is amplified 1 / (1 - momentum)
            times.
        momentum: How much of the velocity stays from step to step, in (0, 1).
        weight_decay: Coupled decay, at least 0: adds weight_decay * w to the gradient of matrices.
        fused: Use the fused step; None chooses the fastest one there is.
        rules: Exceptions for chosen parameters (optim/rules.py), the last that sets something wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.

    Returns:
        A `torch.optim.SGD`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    check_number("lr", lr)
    check_number("momentum", momentum, high=1.0, include_low=False)
    return _build(
        torch.optim.SGD, module, weight_decay, fused, rules, layer_decay, lr=lr, momentum=momentum, nesterov=True
    )


@OPTIMIZERS.register
def rmsprop(
    module: nn.Module,
    lr: float = 1e-3,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
) -> Optimizer:
    """RMSprop (Tieleman and Hinton 2012): w <- w - lr * g / (sqrt(s) + eps), s an average of g^2.

    `eps` is outside the root, PyTorch's convention; other texts write sqrt(s + eps), where the same number acts far
    more strongly. There is no fused step for it.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        alpha: Decay rate of the average of squared gradients, in [0, 1).
        eps: Added to the root, at least 0, in units of the gradient.
        momentum: Heavy-ball momentum on the scaled gradient, in [0, 1).
        centered: Subtract the squared average gradient from s: a variance in place of a second moment.
        weight_decay: Coupled decay, at least 0: adds weight_decay * w to the gradient of matrices.
        rules: Exceptions for chosen parameters (optim/rules.py), the last that sets something wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.

    Returns:
        A `torch.optim.RMSprop`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    check_number("lr", lr)
    check_number("alpha", alpha, high=1.0)
    check_number("eps", eps)
    check_number("momentum", momentum, high=1.0)
    options = {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "centered": centered}
    return _build(torch.optim.RMSprop, module, weight_decay, None, rules, layer_decay, **options)


@OPTIMIZERS.register
def adam(
    module: nn.Module,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    fused: bool | None = None,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
) -> Optimizer:
    """Adam (arXiv 1412.6980): RMSprop with momentum and bias correction.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        betas: Decay rates of the averages of the gradient and of its square, each in [0, 1).
        eps: Added to the root of the second moment, at least 0, in units of the gradient.
        weight_decay: Coupled decay, at least 0: adds weight_decay * w to the gradient of matrices, where Adam's scaling
            weakens it; `adamw` decouples it.
        amsgrad: Divide by the largest second moment so far (arXiv 1904.09237).
        fused: Use the fused step; None chooses the fastest one there is.
        rules: Exceptions for chosen parameters (optim/rules.py), the last that sets something wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.

    Returns:
        A `torch.optim.Adam`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    check_number("lr", lr)
    check_betas(betas)
    check_number("eps", eps)
    options = {"lr": lr, "betas": tuple(betas), "eps": eps, "amsgrad": amsgrad}
    return _build(torch.optim.Adam, module, weight_decay, fused, rules, layer_decay, **options)


@OPTIMIZERS.register
def adamw(
    module: nn.Module,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    amsgrad: bool = False,
    fused: bool | None = None,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
) -> Optimizer:
    """AdamW (arXiv 1711.05101): Adam with decoupled weight decay, w <- (1 - lr * weight_decay) * w - Adam's step.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        betas: Decay rates of the averages of the gradient and of its square, each in [0, 1).
        eps: Added to the root of the second moment, at least 0, in units of the gradient.
        weight_decay: Decoupled decay of matrices, at least 0; each step takes away the fraction lr * weight_decay.
        amsgrad: Divide by the largest second moment so far (arXiv 1904.09237).
        fused: Use the fused step; None chooses the fastest one there is.
        rules: Exceptions for chosen parameters (optim/rules.py), the last that sets something wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.

    Returns:
        A `torch.optim.AdamW`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    check_number("lr", lr)
    check_betas(betas)
    check_number("eps", eps)
    options = {"lr": lr, "betas": tuple(betas), "eps": eps, "amsgrad": amsgrad}
    return _build(torch.optim.AdamW, module, weight_decay, fused, rules, layer_decay, **options)


def _build(
    algorithm: type[Optimizer],
    module: nn.Module,
    weight_decay: float,
    fused: bool | None,
    rules: Sequence[ParameterRule],
    layer_decay: float | None,
    **options: Any,
) -> Optimizer:
    groups = torch_groups(
        module,
        weight_decay=weight_decay,
        lr=options["lr"],
        rules=rules,
        layer_decay=layer_decay,
        allowed=[option for option in options if option != "lr"],
        width_rule=gradient_descent_factor if algorithm is torch.optim.SGD else adaptive_factor,
    )
    options |= {"weight_decay": weight_decay, **fastest(algorithm, module, fused)}
    if options.get("nesterov") and "foreach" in options:
        options["foreach"] = False  # PyTorch's foreach SGD writes Nesterov's step into the gradients
    return keep_names(keep_implementation(algorithm(groups, **options)), module)
