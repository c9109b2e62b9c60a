"""Schedule-free SGD and AdamW: averaging in place of a schedule; the extra `schedule_free` installs the package.

Steps are taken at one point and weights are good at another, their average. The returned optimizers start in the mode
for training; `optimizer.eval()` before an evaluation or before saving weights puts the average in place,
`optimizer.train()` goes back. On the command line the callback `ScheduleFreeSwitch` does it.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from optim.checks import check_betas, check_number
from optim.foreign import keep_gradients, warn_of_schedule
from optim.grouping import torch_groups
from optim.naming import keep_names
from optim.registry import OPTIMIZERS
from optim.rules import ParameterRule


@OPTIMIZERS.register(requires="schedule_free")
def schedule_free_sgd(
    module: nn.Module,
    lr: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
) -> Optimizer:
    """Schedule-free SGD (arXiv 2405.15682): momentum by averaging, and no schedule.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0; the authors advise 10 to 50 times that of `momentum` with a schedule.
        momentum: Where between the newest point (0) and the average (1) gradients are taken, in (0, 1).
        weight_decay: Decay of matrices, at least 0.
        warmup_steps: Steps in which the learning rate rises to `lr`, at least 0.
        r: Power of the number of the step in the average's weights, at least 0.
        weight_lr_power: Power of the learning rate in the average's weights, at least 0.
        rules: Exceptions for chosen parameters (optim/rules.py), the last that sets something wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.

    Returns:
        A `schedulefree.SGDScheduleFree`.

    Raises:
        ValueError: if an option is out of range, nothing is trainable or the package is not installed.
    """
    from schedulefree import SGDScheduleFree

    check_number("momentum", momentum, high=1.0, include_low=False)
    options = {"momentum": momentum, "warmup_steps": warmup_steps, "r": r, "weight_lr_power": weight_lr_power}
    return _build(SGDScheduleFree, module, lr, weight_decay, rules, layer_decay, options)


@OPTIMIZERS.register(requires="schedule_free")
def schedule_free_adamw(
    module: nn.Module,
    lr: float = 2.5e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
) -> Optimizer:
    """Schedule-free AdamW (arXiv 2405.15682): Adam's second moment, momentum by averaging, and no schedule.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0; the authors advise 1 to 10 times that of AdamW with a schedule.
        betas: Where between the newest point (0) and the average (1) gradients are taken, in (0, 1), and decay rate of
            the average of squared gradients, in [0, 1).
        eps: Added to the root of the second moment, at least 0, in units of the gradient.
        weight_decay: Decay of matrices, at least 0.
        warmup_steps: Steps in which the learning rate rises to `lr`, at least 0.
        r: Power of the number of the step in the average's weights, at least 0.
        weight_lr_power: Power of the learning rate in the average's weights, at least 0.
        rules: Exceptions for chosen parameters (optim/rules.py), the last that sets something wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.

    Returns:
        A `schedulefree.AdamWScheduleFree`.

    Raises:
        ValueError: if an option is out of range, nothing is trainable or the package is not installed.
    """
    from schedulefree import AdamWScheduleFree

    check_betas(betas)
    check_number("betas[0]", betas[0], high=1.0, include_low=False)
    check_number("eps", eps)
    options = {
        "betas": tuple(betas), "eps": eps, "warmup_steps": warmup_steps, "r": r, "weight_lr_power": weight_lr_power,
    }  # fmt: skip
    return _build(AdamWScheduleFree, module, lr, weight_decay, rules, layer_decay, options)


def _build(
    algorithm: Any,
    module: nn.Module,
    lr: float,
    weight_decay: float,
    rules: Sequence[ParameterRule],
    layer_decay: float | None,
    options: dict[str, Any],
) -> Optimizer:
    for name, value in (("lr", lr), ("r", options["r"]), ("weight_lr_power", options["weight_lr_power"])):
        check_number(name, value)
    check_number("warmup_steps", options["warmup_steps"])
    groups = torch_groups(
        module, weight_decay=weight_decay, lr=lr, rules=rules, layer_decay=layer_decay, allowed=list(options)
    )
    optimizer = algorithm(groups, lr=lr, weight_decay=weight_decay, **options)
    optimizer.train()
    warn_of_schedule(optimizer, "a schedule-free optimizer needs no schedule: leave --schedule out")
    return keep_names(keep_gradients(optimizer), module)
