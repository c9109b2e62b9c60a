"""The optimizers under contract: every one that is registered; test_contract.py holds each to all checks.

`KNOWN` adds what is known of some: rates that suit the small problems, references, bad values. Of all others the rates
are searched from the default learning rate.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from inspect import Parameter
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from steepest.optim import OPTIMIZERS
from steepest.optim.contract import Case, with_found_rate


@dataclass(frozen=True)
class Entry:
    """What the battery needs to know of one optimizer.

    Attributes:
        name: Its name in the registry.
        lr: Learning rate with which it solves an easy problem in some hundred steps; None searches from its default.
        rosenbrock_lr: One for Rosenbrock's valley; None tries a few multiples of `lr`.
        reference: An independent implementation, (module, lr) -> optimizer, where no other test compares it.
        options: Options of the factory for a learning rate.
        bad: Bad values by option.
    """

    name: str
    lr: float | None = None
    rosenbrock_lr: float | None = None
    reference: Callable[[nn.Module, float], Optimizer] | None = None
    options: Callable[[float], dict[str, Any]] = lambda lr: {"lr": lr}
    bad: Mapping[str, Any] = field(default_factory=lambda: {"weight_decay": -0.1})

    def make(self, module: nn.Module, lr: float | None = None, **others: Any) -> Optimizer:
        """Build it by its registered name."""
        return OPTIMIZERS.create(self.name, module, **{**self.options(self.case.lr if lr is None else lr), **others})

    @cached_property
    def case(self) -> Case:
        """The same for the public checks."""
        given = OPTIMIZERS.options(self.name)
        bad = {option: value for option, value in self.bad.items() if self.lr is not None or option in given}
        refused = {f"{option} = {value!r}": partial(self.make, **{option: value}) for option, value in bad.items()}
        if self.lr is not None:
            return Case(self.name, self.make, self.lr, self.rosenbrock_lr, refused)
        default = given["lr"].default if "lr" in given else Parameter.empty
        lr = default if isinstance(default, float) and default > 0 else 0.01
        return with_found_rate(Case(self.name, self.make, lr, refused=refused))


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


KNOWN = [
    Entry("sgd", 0.1, 1e-3, plain(torch.optim.SGD)),
    Entry("momentum", 0.05, 1e-3, plain(torch.optim.SGD, momentum=0.9), bad={"momentum": 1.0, "dampening": 2.0}),
    Entry("nesterov", 0.05, 3e-4, plain(torch.optim.SGD, momentum=0.9, nesterov=True), bad={"momentum": 0.0}),
    Entry("rmsprop", 0.01, 0.03, plain(torch.optim.RMSprop), bad={"alpha": 1.0, "eps": -1e-8}),
    Entry("adam", 0.03, 0.03, plain(torch.optim.Adam), bad={"betas": (0.9, 1.0), "eps": -1e-8}),
    Entry("adamw", 0.03, 0.03, decaying_matrices(torch.optim.AdamW, 0.01), bad={"betas": (0.9,)}),
    Entry(
        "external",
        0.03,
        0.03,
        plain(torch.optim.NAdam),
        lambda lr: {"algorithm": partial(torch.optim.NAdam, lr=lr)},
        {"matrix_weight_decay": -1.0},
    ),
    Entry("reference_lbfgs", 1.0, 1.0, bad={"history_size": 0}),
    # More iterations on one small batch than two mislead the next batch.
    Entry("lbfgs", 1.0, 1.0, options=lambda lr: {"lr": lr, "max_iter": 2}, bad={"max_iter": 0}),
    Entry("sam", 0.05, 1e-3, bad={"rho": -0.1}),
    Entry("lion", 0.01, 0.01, bad={"betas": (0.9, 1.0)}),
    Entry("muon", 0.03, 0.03, bad={"momentum": 1.0, "steps": 0, "scale": "spectrum", "fallback_lr_scale": -1.0}),
    Entry("muon_sgd", 0.05, 1e-3, bad={"spectral_budget": -1.0, "inner_solver": "newton"}),
    Entry("muon_adamw", 0.03, 0.03, bad={"spectral_budget": -1.0, "betas": (1.0, 0.9)}),
    Entry("schedule_free_sgd", 0.1, 3e-3, bad={"momentum": 0.0, "warmup_steps": -1}),
    Entry("schedule_free_adamw", 0.03, 0.03, bad={"betas": (0.0, 0.9), "r": -1.0}),
    Entry("composite", 0.03, 0.03, bad={"algorithm": "adamx", "options": {"adamw": {"beta": 0.9}}}),
    Entry("autosgm", 0.03, 0.03, bad={"numerator": 5}),
]

ENTRIES = [*KNOWN, *(Entry(name) for name in OPTIMIZERS if name not in {entry.name for entry in KNOWN})]
