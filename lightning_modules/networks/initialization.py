"""How the weights of linear and convolution layers start."""

import math
from typing import Literal, get_args

from torch import nn

Initialization = Literal["default", "he", "xavier", "orthogonal"]


def initialize(module: nn.Module, initialization: Initialization = "default") -> None:
    """Draw the weights of all linear and convolution layers of a module anew, in place.

    Args:
        module: Any module; other layers (normalization, embeddings) stay as they are.
        initialization: One of

            - "default": leave PyTorch's start as it is, uniform with variance 1 / (3 fan_in), biases too;
            - "he": normal with variance 2 / fan_in, which keeps the size of the signal under ReLU (arXiv 1502.01852);
            - "xavier": uniform with variance 2 / (fan_in + fan_out), made for tanh (Glorot and Bengio 2010);
            - "orthogonal": orthogonal rows or columns times sqrt(2), the gain of ReLU (arXiv 1312.6120).

            All but the default set biases to zero.

    Raises:
        ValueError: if the name is unknown.
    """
    if initialization not in get_args(Initialization):
        raise ValueError(
            f"initialization {initialization!r} is unknown; allowed: {', '.join(get_args(Initialization))}"
        )
    if initialization == "default":
        return
    for layer in module.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        if initialization == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif initialization == "xavier":
            nn.init.xavier_uniform_(layer.weight)
        else:
            nn.init.orthogonal_(layer.weight, gain=math.sqrt(2))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
