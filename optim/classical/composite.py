"""Any of our algorithms for any parameters, by rules."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from steepest.optim.core.composite import composite_of
from steepest.optim.core.options import SharedOptions
from steepest.optim.registry import OPTIMIZERS


@OPTIMIZERS.register
def composite(
    module: nn.Module,
    algorithm: str = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    shared: SharedOptions,
) -> Optimizer:
    """Several algorithms in one optimizer, each parameter's chosen by rules.

    Args:
        algorithm: Of all parameters to which no rule gives another: adamw, sgd, lion, muon, muon_sgd, muon_adamw,
            autosgm.
        lr: Learning rate, at least 0; a rule's `lr_scale` multiplies it.
        weight_decay: Of matrices, embeddings and the output layer, at least 0, as each algorithm understands it.
        options: Options by algorithm: {"sgd": {"momentum": 0.9}, "lion": {"lr": 1e-4}}. What is left out takes the
            algorithm's default.

    Returns:
        A `Composite` with a group for each set of options.

    Raises:
        ValueError: if an algorithm or option is unknown or out of range, or nothing is trainable.
    """
    return composite_of(module, algorithm, lr, weight_decay, options or {}, shared)
