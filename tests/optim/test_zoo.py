"""Optimizers of other packages behind our options: strict, gradients untouched, resumed to the bit."""

from typing import Any

import pytest
import torch
from torch import nn

from optim import OPTIMIZERS
from optim.contract import CHECKS, Case
from optim.contract.models import network, train
from optim.extras import is_installed
from optim.registry import OPTIMIZERS as REGISTRY

FAMILIES = [prefix for prefix, family in REGISTRY.families.items() if is_installed(family.requires)]
MEMBERS = [name for prefix in FAMILIES for name in REGISTRY.families[prefix].members()]
SOME = [name for name in MEMBERS if name.split("_", 1)[1] in ("lion", "muon", "lamb", "soap", "adopt", "madgrad")]
NEEDED: dict[str, dict[str, Any]] = {"zoo_ranger21": {"num_iterations": 100}}

pytestmark = pytest.mark.skipif(not FAMILIES, reason="needs the extras zoo and timm: pip install 'steepest[zoo,timm]'")


def case(name: str) -> Case:
    def make(module: nn.Module, lr: float) -> torch.optim.Optimizer:
        options = {"lr": lr} if "lr" in OPTIMIZERS.options(name) else {}
        return OPTIMIZERS.create(name, module, **options, **NEEDED.get(name, {}))

    return Case(name, make, 1e-3)


@pytest.mark.parametrize("check", ["leaves_gradients_alone", "resumes_to_the_bit", "holds_every_parameter_once"])
@pytest.mark.parametrize("name", SOME)
def test_some_members(name: str, check: str) -> None:
    CHECKS[check](case(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", MEMBERS)
def test_every_member(name: str) -> None:
    for check in ("leaves_gradients_alone", "resumes_to_the_bit", "refuses_the_state_of_another_model"):
        CHECKS[check](case(name))


def test_types_are_checked() -> None:
    with pytest.raises(ValueError, match=r"betas of zoo_lion must be .*, not 0\.9\Z"):
        OPTIMIZERS.create("zoo_lion", network(), betas=0.9)


def test_decay_follows_roles() -> None:
    for group in OPTIMIZERS.create("zoo_lion", network(), weight_decay=0.3).param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            assert group["weight_decay"] == (0.3 if parameter.ndim == 2 else 0.0), name


def test_a_schedule_on_what_ignores_it_warns_once() -> None:
    module = network()
    optimizer = OPTIMIZERS.create("zoo_madgrad", module, lr=1e-3)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with pytest.warns(UserWarning, match=r"zoo_madgrad with a schedule: past steps are weighed"):
        train(module, optimizer, 2)
