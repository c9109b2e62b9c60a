"""Any of our algorithms for any parameters, by rules."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from optim.checks import check_number
from optim.composite import Composite
from optim.grouping import algorithm_groups
from optim.registry import OPTIMIZERS
from optim.rounding import Rounding
from optim.rules import ParameterRule


@OPTIMIZERS.register
def composite(
    module: nn.Module,
    algorithm: str = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
    rounding: Rounding = "nearest",
) -> Optimizer:
    """Several algorithms in one optimizer, each parameter's chosen by rules.

    Args:
        module: The model; its trainable parameters are optimized.
        algorithm: Of all parameters to which no rule gives another: adamw, sgd, lion, muon, muon_sgd, muon_adamw,
            autosgm.
        lr: Learning rate, at least 0; a rule's `lr_scale` multiplies it.
        weight_decay: Of matrices, embeddings and the output layer, at least 0, as each algorithm understands it.
        options: Options by algorithm: {"sgd": {"momentum": 0.9}, "lion": {"lr": 1e-4}}. What is left out takes the
            algorithm's default.
        rules: Which parameters take another algorithm, rate, decay or option; the last that sets something wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.
        rounding: How 16-bit parameters take up a step: nearest, kahan or stochastic.

    Returns:
        A `Composite` with a group for each set of options.

    Raises:
        ValueError: if an algorithm or option is unknown or out of range, or nothing is trainable.
    """
    check_number("lr", lr)
    check_number("weight_decay", weight_decay)
    groups = algorithm_groups(
        module,
        algorithm,
        lr=lr,
        weight_decay=weight_decay,
        options=options or {},
        rules=rules,
        layer_decay=layer_decay,
    )
    return Composite(groups, rounding)
