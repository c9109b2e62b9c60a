"""Optimizers of other packages behind our options: strict, gradients untouched, resumed to the bit."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from steepest.optim import OPTIMIZERS
from steepest.optim.contract import CHECKS, Case
from steepest.optim.contract.models import backward, data, network, train, weights
from steepest.optim.core.roles import ParameterRule
from steepest.optim.libraries import zoo, zoo_timm
from steepest.optim.libraries.families import is_installed
from steepest.optim.libraries.wrapping import keep_gradients

FAMILIES = [prefix for prefix, family in OPTIMIZERS.families.items() if is_installed(family.requires)]
MEMBERS = [name for prefix in FAMILIES for name in OPTIMIZERS.families[prefix].members()]
SOME = [name for name in MEMBERS if name.split("_", 1)[1] in ("lion", "muon", "lamb", "soap", "adopt", "madgrad")]
# They draw from the global random numbers; in a run, each step is seeded.
RANDOM = ["zoo_dash", "zoo_gravity", "zoo_kron", "timm_kron", "timm_kronc", "timm_kronw"]
NEEDED: dict[str, dict[str, Any]] = {"zoo_ranger21": {"num_iterations": 100}}

pytestmark = [
    pytest.mark.skipif(not FAMILIES, reason="needs the extras zoo and timm: pip install 'steepest[zoo,timm]'"),
    # timm's advice on its Kron optimizers.
    pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum' installed:UserWarning"),
]


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
    checks = ["leaves_gradients_alone", "refuses_the_state_of_another_model"]
    for check in checks if name in RANDOM else [*checks, "resumes_to_the_bit"]:
        CHECKS[check](case(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RANDOM if name in MEMBERS])
def test_what_draws_random_numbers_resumes_when_its_steps_are_seeded(name: str) -> None:
    def seeded(module: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(step)
                train(module, optimizer, 1, first=step)

    whole, part = network(), network()
    first = case(name).make(whole, 1e-3)
    seeded(whole, first, 0, 3)
    part.load_state_dict(whole.state_dict())
    second = case(name).make(part, 1e-3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    seeded(whole, first, 3, 6)
    seeded(part, second, 3, 6)
    assert torch.equal(weights(part), weights(whole))


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


def moves_without_a_learning_rate(name: str) -> bool:
    module = network()
    optimizer = case(name).make(module, 1e-3)
    train(module, optimizer, 8)
    start = weights(module)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    try:
        train(module, optimizer, 3, first=8)
    except ZeroDivisionError:
        return True
    return not torch.equal(weights(module), start)


@pytest.mark.slow
@pytest.mark.parametrize("name", MEMBERS)
def test_what_moves_at_a_learning_rate_of_zero_is_declared(name: str) -> None:
    declared = {f"zoo_{key}" for key in zoo.UNSCHEDULABLE} | {f"timm_{key}" for key in zoo_timm.UNSCHEDULABLE}
    assert not moves_without_a_learning_rate(name) or name in declared


@pytest.mark.parametrize("name", ["zoo_muon", "timm_muon"])
def test_muon_of_other_packages_takes_hidden_matrices_only(name: str) -> None:
    for group in OPTIMIZERS.create(name, network(), lr=0.02).param_groups:
        assert group["use_muon"] is (group["param_names"] == ["hidden.weight"])


def test_adamw_part_of_a_foreign_muon_has_its_own_rate_scaled_by_rules() -> None:
    rules = [ParameterRule(role="head", lr_scale=0.5), ParameterRule(role="matrix", lr_scale=0.25)]
    options = {"lr": 0.02, "adamw_lr": 1e-3, "weight_decay": 0.1, "adamw_wd": 0.3, "rules": rules}
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in OPTIMIZERS.create("zoo_muon", network(), **options).param_groups
        for name in group["param_names"]
    }
    assert found["hidden.weight"] == (0.005, 0.1)
    assert found["head.weight"] == (5e-4, 0.3)
    assert found["first.weight"] == (1e-3, 0.3)
    assert found["first.bias"] == (1e-3, 0.0)


@pytest.mark.parametrize("with_closure", [False, True])
def test_the_gradients_that_lars_overwrites_are_kept(with_closure: bool) -> None:
    module = network()
    inputs, labels = data(0)

    def closure() -> torch.Tensor:
        module.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(inputs), labels)
        loss.backward()
        return loss

    closure()
    expected = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    optimizer = OPTIMIZERS.create("zoo_lars", module, lr=0.1, weight_decay=0.1)
    optimizer.step(closure if with_closure else None)
    kept = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert len(kept) == len(expected)
    assert all(map(torch.equal, kept, expected))


def test_gradients_are_kept_when_a_step_fails() -> None:
    class Fails(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad.zero_()
            raise RuntimeError("failed")

    module = network()
    optimizer = keep_gradients(Fails(module.parameters(), lr=0.1))
    backward(module, optimizer, 0)
    gradients = [parameter.grad for parameter in module.parameters()]
    with pytest.raises(RuntimeError, match="failed"):
        optimizer.step()
    assert all(parameter.grad is gradient for parameter, gradient in zip(module.parameters(), gradients, strict=True))
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
