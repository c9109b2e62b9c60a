"""Schedule-free SGD and AdamW: averaging in place of a schedule; the extra `schedule_free` installs the package.

Steps are taken at one point and weights are good at another, their average. The returned optimizers start in the mode
for training; `optimizer.eval()` before an evaluation or before saving weights puts the average in place,
`optimizer.train()` goes back. On the command line the callback `ScheduleFreeSwitch` does it.
"""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from steepest.optim.checks import check_betas, check_number
from steepest.optim.core.algorithms import AdamOptions
from steepest.optim.core.grouping import torch_groups
from steepest.optim.core.naming import keep_names
from steepest.optim.core.options import GroupOptions, Options
from steepest.optim.libraries.wrapping import keep_gradients, warn_of_schedule
from steepest.optim.registry import OPTIMIZERS


class AveragingOptions(Options):
    """The warm-up and the weights of the average.

    Attributes:
        warmup_steps: Steps in which the learning rate rises to `lr`, at least 0.
        r: Power of the number of the step in the average's weights, at least 0.
        weight_lr_power: Power of the learning rate in the average's weights, at least 0.
    """

    warmup_steps: int = 0
    r: float = 0.0
    weight_lr_power: float = 2.0


@OPTIMIZERS.register(requires="schedule_free")
def schedule_free_sgd(
    module: nn.Module,
    lr: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    *,
    averaging: AveragingOptions,
    shared: GroupOptions,
) -> Optimizer:
    """Schedule-free SGD (arXiv 2405.15682): momentum by averaging, and no schedule.

    Args:
        lr: Learning rate, at least 0; the authors advise 10 to 50 times that of `momentum` with a schedule.
        momentum: Where between the newest point (0) and the average (1) gradients are taken, in (0, 1).
        weight_decay: Decay of matrices, at least 0.

    Returns:
        A `schedulefree.SGDScheduleFree`.

    Raises:
        ValueError: if an option is out of range, nothing is trainable or the package is not installed.
    """
    from schedulefree import SGDScheduleFree

    check_number("momentum", momentum, high=1.0, include_low=False)
    return _build(SGDScheduleFree, module, lr, weight_decay, averaging, shared, momentum=momentum)


@OPTIMIZERS.register(requires="schedule_free")
def schedule_free_adamw(
    module: nn.Module,
    lr: float = 2.5e-3,
    *,
    own: AdamOptions,
    weight_decay: float = 0.0,
    averaging: AveragingOptions,
    shared: GroupOptions,
) -> Optimizer:
    """Schedule-free AdamW (arXiv 2405.15682): Adam's second moment, momentum by averaging, and no schedule.

    Args:
        lr: Learning rate, at least 0; the authors advise 1 to 10 times that of AdamW with a schedule.
        betas: Where between the newest point (0) and the average (1) gradients are taken, in (0, 1), and decay rate of
            the average of squared gradients, in [0, 1).
        weight_decay: Decay of matrices, at least 0.

    Returns:
        A `schedulefree.AdamWScheduleFree`.

    Raises:
        ValueError: if an option is out of range, nothing is trainable or the package is not installed.
    """
    from schedulefree import AdamWScheduleFree

    check_betas(own.betas)
    check_number("betas[0]", own.betas[0], high=1.0, include_low=False)
    check_number("eps", own.eps)
    return _build(AdamWScheduleFree, module, lr, weight_decay, averaging, shared, **vars(own))


def _build(
    algorithm: Any,
    module: nn.Module,
    lr: float,
    weight_decay: float,
    averaging: AveragingOptions,
    shared: GroupOptions,
    **options: Any,
) -> Optimizer:
    options |= vars(averaging)
    check_number("lr", lr)
    for name, value in vars(averaging).items():
        check_number(name, value)
    groups = torch_groups(module, weight_decay=weight_decay, lr=lr, shared=shared, allowed=list(options))
    optimizer = algorithm(groups, lr=lr, weight_decay=weight_decay, **options)
    optimizer.train()
    warn_of_schedule(optimizer, "a schedule-free optimizer needs no schedule: leave --schedule out")
    return keep_names(keep_gradients(optimizer), module)
