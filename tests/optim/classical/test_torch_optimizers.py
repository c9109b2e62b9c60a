"""Classical optimizers against bare PyTorch, known answers and bad options."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import Optimizer

from steepest.optim import OPTIMIZERS
from steepest.optim.classical.torch_optimizers import adam, adamw, momentum, nesterov, rmsprop, sgd
from steepest.optim.contract.models import network, train, weights
from steepest.optim.core.implementation import without_fused

VARIANTS: list[tuple[Any, Any, dict[str, Any], dict[str, Any]]] = [
    (sgd, torch.optim.SGD, {}, {}),
    (momentum, torch.optim.SGD, {"momentum": 0.8, "dampening": 0.8}, {}),
    (nesterov, torch.optim.SGD, {"momentum": 0.8}, {"nesterov": True}),
    (rmsprop, torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-3, "momentum": 0.5, "centered": True}, {}),
    (adam, torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-3, "amsgrad": True}, {}),
    (adamw, torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-3, "amsgrad": True}, {}),
]


@pytest.mark.parametrize(("factory", "algorithm", "options", "extra"), VARIANTS)
@pytest.mark.parametrize("fused", [True, False])
def test_every_option_reaches_pytorch_to_the_bit(
    factory: Any, algorithm: Any, options: dict[str, Any], extra: dict[str, Any], fused: bool
) -> None:
    if factory is rmsprop:
        implementation, ours_fused = {"foreach": True}, {}
    else:
        implementation, ours_fused = {"fused": True} if fused else {"foreach": True}, {"fused": fused}
    ours, theirs = network(), network()
    matrices = [parameter for parameter in theirs.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in theirs.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    train(ours, factory(ours, lr=0.02, weight_decay=0.3, **options, **ours_fused), 50)
    train(theirs, algorithm(groups, lr=0.02, **options, **extra, **implementation), 50)
    assert torch.equal(weights(ours), weights(theirs))


CURVATURE = 3.0
DECAY = 0.5
STABLE = {
    "gradient descent": (lambda module, lr: sgd(module, lr), 2 / CURVATURE),
    "coupled decay": (lambda module, lr: sgd(module, lr, weight_decay=DECAY), 2 / (CURVATURE + DECAY)),
    "heavy ball": (lambda module, lr: momentum(module, lr), 3.8 / CURVATURE),
    "average": (lambda module, lr: momentum(module, lr, dampening=0.9), 3.8 / (CURVATURE * 0.1)),
    "nesterov": (lambda module, lr: nesterov(module, lr), 3.8 / (CURVATURE * 2.8)),
}


@pytest.mark.parametrize("rule", STABLE)
def test_largest_stable_learning_rate_on_a_quadratic(rule: str) -> None:
    """The limit is known in closed form; the optimizer falls just below it and grows just above."""
    make, limit = STABLE[rule]

    def grows(lr: float) -> bool:
        module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.ones_(module.weight)
        optimizer = make(module, lr)
        for _ in range(2500):
            module.weight.grad = CURVATURE * module.weight.detach()
            optimizer.step()
            if module.weight.abs().item() > 1e3:
                return True
        return module.weight.abs().item() > 1

    factors = (0.5, 0.999, 1.001, 2.0)
    assert [grows(factor * limit) for factor in factors] == [False, False, True, True]


@settings(deadline=None)
@given(gradient=st.floats(1e-3, 1e3), negative=st.booleans(), lr=st.floats(1e-5, 1.0))
def test_the_first_step_of_adam_is_the_sign_of_the_gradient(gradient: float, negative: bool, lr: float) -> None:
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(module.weight)
    module.weight.grad = torch.full_like(module.weight, -gradient if negative else gradient)
    adam(module, lr).step()
    assert module.weight.item() == pytest.approx(lr if negative else -lr, rel=1e-4)


def test_the_epsilon_of_rmsprop_is_outside_the_root() -> None:
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(module.weight)
    module.weight.grad = torch.full_like(module.weight, 2.0)
    rmsprop(module, lr=1.0, alpha=0.75, eps=3.0).step()
    assert module.weight.item() == pytest.approx(-2.0 / ((0.25 * 2.0**2) ** 0.5 + 3.0))


def test_adamw_decays_apart_from_the_gradient() -> None:
    module = nn.Linear(3, 2, dtype=torch.float64)
    start = weights(module)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adamw(module, lr=0.1, weight_decay=0.5).step()
    expected = start * torch.tensor([0.95] * 6 + [1.0] * 2)
    torch.testing.assert_close(weights(module), expected)


BAD_OPTIONS = [
    ("sgd", {"lr": -1e-9}, "lr must be a finite number in [0, inf), not -1e-09"),
    ("sgd", {"lr": float("inf")}, "lr must be a finite number in [0, inf), not inf"),
    ("sgd", {"lr": "fast"}, "lr must be a finite number in [0, inf), not 'fast'"),
    ("sgd", {"lr": None}, "lr must be a finite number in [0, inf), not None"),
    ("sgd", {"lr": True}, "lr must be a finite number in [0, inf), not True"),
    ("sgd", {"weight_decay": -0.1}, "weight_decay must be a finite number in [0, inf), not -0.1"),
    ("sgd", {"weight_decay": float("nan")}, "weight_decay must be a finite number in [0, inf), not nan"),
    ("momentum", {"momentum": 1.0}, "momentum must be a finite number in [0, 1), not 1.0"),
    ("momentum", {"momentum": -0.1}, "momentum must be a finite number in [0, 1), not -0.1"),
    ("momentum", {"dampening": 1.1}, "dampening must be a finite number in [0, 1], not 1.1"),
    ("nesterov", {"momentum": 0.0}, "momentum must be a finite number in (0, 1), not 0.0"),
    ("rmsprop", {"alpha": 1.0}, "alpha must be a finite number in [0, 1), not 1.0"),
    ("rmsprop", {"eps": -1.0}, "eps must be a finite number in [0, inf), not -1.0"),
    ("rmsprop", {"momentum": 1.5}, "momentum must be a finite number in [0, 1), not 1.5"),
    ("adam", {"betas": (0.9, 1.0)}, "betas[1] must be a finite number in [0, 1), not 1.0"),
    ("adam", {"betas": (float("nan"), 0.9)}, "betas[0] must be a finite number in [0, 1), not nan"),
    ("adam", {"betas": 0.9}, "betas must be two numbers in [0, 1), not 0.9"),
    ("adamw", {"betas": (0.9,)}, "betas must be two numbers in [0, 1), not (0.9,)"),
    ("adamw", {"eps": float("inf")}, "eps must be a finite number in [0, inf), not inf"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD_OPTIONS)
def test_bad_options_are_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\A.*\Z") as error:
        OPTIMIZERS.create(name, nn.Linear(2, 2), **options)
    assert str(error.value) == message


def test_a_factory_is_a_plain_function() -> None:
    optimizer: Optimizer = adamw(network(), lr=3e-4)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["lr"] for group in optimizer.param_groups} == {3e-4}


def test_nesterov_leaves_gradients_alone_where_there_is_no_fused_step() -> None:
    module = nn.Linear(3, 2)
    for optimizer in (OPTIMIZERS.create("nesterov", module, fused=False), OPTIMIZERS.create("nesterov", module)):
        without_fused(optimizer)
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in module.parameters())
