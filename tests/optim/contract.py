"""The list of optimizers under contract, one entry each; tests/optim/test_contract.py holds every entry to all of it.

To add an optimizer, write one file in optim/ and one entry here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Contract:
    """What the battery needs to know of one optimizer.

    Attributes:
        name: Its name in the registry.
        lr: Learning rate with which it solves an easy quadratic in 300 steps.
        reference: An independent implementation: (module, lr) -> optimizer.
        options: Options of the factory for a learning rate.
    """

    name: str
    lr: float
    reference: Callable[[nn.Module, float], Optimizer]
    options: Callable[[float], dict[str, Any]] = lambda lr: {"lr": lr}


def plain(algorithm: Callable[..., Optimizer], **options: Any) -> Callable[[nn.Module, float], Optimizer]:
    """The bare class over all parameters, in PyTorch's slowest, clearest implementation."""
    return lambda module, lr: algorithm(module.parameters(), lr=lr, foreach=False, **options)


def decaying_matrices(algorithm: Callable[..., Optimizer], decay: float) -> Callable[[nn.Module, float], Optimizer]:
    """The bare class with weight decay on what has two dimensions: right for networks of linear and norm layers."""

    def make(module: nn.Module, lr: float) -> Optimizer:
        matrices = [parameter for parameter in module.parameters() if parameter.ndim == 2]
        vectors = [parameter for parameter in module.parameters() if parameter.ndim < 2]
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        return algorithm(groups, lr=lr, foreach=False)

    return make


CONTRACTS = [
    Contract("sgd", 0.1, plain(torch.optim.SGD)),
    Contract("momentum", 0.05, plain(torch.optim.SGD, momentum=0.9)),
    Contract("nesterov", 0.05, plain(torch.optim.SGD, momentum=0.9, nesterov=True)),
    Contract("rmsprop", 0.01, plain(torch.optim.RMSprop)),
    Contract("adam", 0.03, plain(torch.optim.Adam)),
    Contract("adamw", 0.03, decaying_matrices(torch.optim.AdamW, 0.01)),
    Contract(
        "external",
        0.03,
        plain(torch.optim.NAdam),
        lambda lr: {"algorithm": partial(torch.optim.NAdam, lr=lr)},
    ),
]
