"""The references against PyTorch, closed forms and bad input."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.optim import OPTIMIZERS
from steepest.optim.classical.references import SGD, Adam, AdamW, HeavyBall, Nesterov, RMSprop
from tests.optim.classical.references.problems import network, train, weights

Make = Callable[..., Optimizer]

PAIRS: dict[str, tuple[Make, Make, dict[str, Any], dict[str, Any]]] = {
    "sgd": (SGD, torch.optim.SGD, {"lr": 0.1}, {}),
    "sgd, decay": (SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.3}, {}),
    "momentum": (HeavyBall, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}, {}),
    "momentum, all": (
        HeavyBall,
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.8, "dampening": 0.7, "weight_decay": 0.1},
        {},
    ),
    "nesterov": (Nesterov, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}, {"nesterov": True}),
    "rmsprop": (RMSprop, torch.optim.RMSprop, {"lr": 0.01}, {}),
    "rmsprop, all": (RMSprop, torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.8, "eps": 0.1, "weight_decay": 0.2}, {}),
    "adam": (Adam, torch.optim.Adam, {"lr": 0.01}, {}),
    "adam, all": (Adam, torch.optim.Adam, {"lr": 0.01, "betas": (0.7, 0.9), "eps": 0.1, "weight_decay": 0.2}, {}),
    "adamw": (AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.01}, {}),
    "adamw, all": (AdamW, torch.optim.AdamW, {"lr": 0.01, "betas": (0.7, 0.9), "eps": 0.1, "weight_decay": 2.0}, {}),
}
NAMES = ["reference_sgd", "reference_momentum", "reference_nesterov", "reference_rmsprop", "reference_adam"]
NAMES += ["reference_adamw"]


@pytest.mark.parametrize("pair", PAIRS)
def test_two_hundred_steps_equal_pytorch(pair: str) -> None:
    own, theirs, options, extra = PAIRS[pair]
    modules = network(), network()
    train(modules[0], own(modules[0].parameters(), **options), 200)
    train(modules[1], theirs(modules[1].parameters(), **options, **extra, foreach=False), 200)
    assert (weights(modules[0]) - weights(network())).abs().max() > 0.1
    torch.testing.assert_close(weights(modules[0]), weights(modules[1]), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_registered_ones_are_the_classics(name: str) -> None:
    options = {} if name == "reference_sgd" else {"weight_decay": 0.2}
    runs = []
    for registered in (name, name.removeprefix("reference_")):
        module = network()
        train(module, OPTIMIZERS.create(registered, module, lr=0.02, **options), 50)
        runs.append(weights(module))
    torch.testing.assert_close(runs[0], runs[1], rtol=0.0, atol=1e-12)


CURVATURE, DECAY = 3.0, 0.5
EPS = 1e7  # so large that Adam's preconditioner stays there
STABLE: dict[str, tuple[Make, dict[str, Any], float]] = {
    "gradient descent": (SGD, {}, 2 / CURVATURE),
    "coupled decay": (SGD, {"weight_decay": DECAY}, 2 / (CURVATURE + DECAY)),
    "heavy ball": (HeavyBall, {}, 3.8 / CURVATURE),
    "nesterov": (Nesterov, {}, 3.8 / (CURVATURE * 2.8)),
    "average": (HeavyBall, {"dampening": 0.9}, 3.8 / (CURVATURE * 0.1)),
    "adam, frozen": (Adam, {"eps": EPS}, 38 * EPS / CURVATURE),
}


@pytest.mark.parametrize("rule", STABLE)
def test_largest_stable_learning_rate_on_a_quadratic(rule: str) -> None:
    """The limit is known in closed form; the optimizer falls just below it and grows just above."""
    make, options, limit = STABLE[rule]

    def grows(lr: float) -> bool:
        weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = make([weight], lr=lr, **options)
        for state in optimizer.state.values():
            if "step" in state:
                state["step"].fill_(1e6)  # no bias correction any more
        for _ in range(1000):
            weight.grad = CURVATURE * weight.detach()
            optimizer.step()
            if weight.abs().item() > 1e3:
                return True
        return weight.abs().item() > 1

    factors = (0.9, 0.997, 1.003, 1.1)
    assert [grows(factor * limit) for factor in factors] == [False, False, True, True]


def test_nesterov_is_the_gradient_at_the_look_ahead_point() -> None:
    """The textbook form, x <- x - lr * v with v <- b * v + g(x - lr * b * v), gives the weights as x - lr * b * v."""
    lr, b = 0.05, 0.9
    curvature = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    x, v = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    weight = x.clone().requires_grad_()
    optimizer = Nesterov([weight], lr=lr, momentum=b)
    for _ in range(50):
        weight.grad = curvature * weight.detach()
        optimizer.step()
        v = b * v + curvature * (x - lr * b * v)
        x = x - lr * v
        torch.testing.assert_close(weight.detach(), x - lr * b * v, rtol=0.0, atol=1e-14)


@settings(deadline=None)
@given(gradient=st.floats(1e-3, 1e3), sign=st.sampled_from([-1.0, 1.0]), lr=st.floats(1e-5, 1.0))
def test_first_step_of_adam_is_the_sign(gradient: float, sign: float, lr: float) -> None:
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    weight.grad = torch.full_like(weight, sign * gradient)
    Adam([weight], lr=lr).step()
    assert weight.item() == pytest.approx(-sign * lr, rel=1e-4)


def test_a_steady_gradient_is_amplified_by_momentum_and_not_by_rmsprop() -> None:
    for optimizer_class, gain in ((HeavyBall, 10.0), (Nesterov, 10.0), (RMSprop, 1 / 3), (Adam, 1 / 3)):
        weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        options = {"alpha": 0.9} if optimizer_class is RMSprop else {}
        optimizer = optimizer_class([weight], lr=0.01, **options)
        for _ in range(400):
            before = weight.item()
            weight.grad = torch.full_like(weight, 3.0)
            optimizer.step()
        assert before - weight.item() == pytest.approx(0.01 * 3.0 * gain, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_state_is_complete_from_the_start_and_resumes_to_the_bit(name: str) -> None:
    whole, first, second = network(), network(), network()
    optimizer = OPTIMIZERS.create(name, whole)
    entries = {index: sorted(entry) for index, entry in optimizer.state_dict()["state"].items()}
    train(whole, optimizer, 10)
    assert {index: sorted(entry) for index, entry in optimizer.state_dict()["state"].items()} == entries

    optimizer = OPTIMIZERS.create(name, first)
    train(first, optimizer, 5)
    file = io.BytesIO()
    torch.save([first.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    model_state, state = torch.load(file, weights_only=True)
    second.load_state_dict(model_state)
    resumed = OPTIMIZERS.create(name, second, lr=0.7)
    resumed.load_state_dict(state)
    train(second, resumed, 5, first=5)
    assert torch.equal(weights(second), weights(whole))
    train(first, optimizer, 5, first=5)  # what was loaded is a copy
    assert torch.equal(weights(first), weights(whole))


def test_state_is_matched_by_name() -> None:
    class Swapped(nn.Module):
        def __init__(self, order: str) -> None:
            super().__init__()
            for name in order:
                self.register_parameter(name, nn.Parameter(torch.ones(2, 2)))

    one, other = Swapped("ab"), Swapped("ba")
    optimizer = OPTIMIZERS.create("reference_momentum", one)
    one.get_parameter("a").grad = torch.full((2, 2), 5.0)
    optimizer.step()
    loaded = OPTIMIZERS.create("reference_momentum", other)
    loaded.load_state_dict(optimizer.state_dict())
    assert torch.equal(loaded.state[other.get_parameter("a")]["velocity"], torch.full((2, 2), 5.0))
    assert torch.equal(loaded.state[other.get_parameter("b")]["velocity"], torch.zeros(2, 2))


@pytest.mark.parametrize("name", NAMES)
def test_copies_go_the_same_way(name: str) -> None:
    module = network()
    optimizer = OPTIMIZERS.create(name, module)
    train(module, optimizer, 3)
    pairs = [copy.deepcopy((module, optimizer)), pickle.loads(pickle.dumps((module, optimizer)))]
    for other in [(module, optimizer), *pairs]:
        train(*other, 3, first=3)
    assert torch.equal(weights(pairs[0][0]), weights(module))
    assert torch.equal(weights(pairs[1][0]), weights(module))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_type_learns_and_gradients_stay(name: str, dtype: torch.dtype) -> None:
    weight = nn.Linear(3, 2, dtype=dtype)
    frozen = copy.deepcopy(weight)
    weight.bias.requires_grad_(False)
    optimizer = OPTIMIZERS.create(name, weight, lr=0.1)
    gradient = torch.ones(3, 2, dtype=dtype).t()  # not contiguous
    for _ in range(2):
        weight.weight.grad = gradient
        optimizer.step()
    assert torch.equal(gradient, torch.ones(2, 3, dtype=dtype))
    assert (weight.weight < frozen.weight).all()
    assert torch.equal(weight.bias, frozen.bias)
    weight.weight.grad = None
    before = weights(weight)
    optimizer.step()
    assert torch.equal(weights(weight), before)


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_step_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"\A\w+ does not support complex parameters \(type torch.complex64\)\Z"):
        OPTIMIZERS.create(name, nn.Linear(2, 2, dtype=torch.complex64))
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = OPTIMIZERS.create(name, table)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"\A\w+ does not support sparse gradients: use sparse=False\Z"):
        optimizer.step()


BAD_OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("reference_sgd", {"lr": -1.0}, "lr must be a finite number in [0, inf), not -1.0"),
    ("reference_sgd", {"weight_decay": -1.0}, "weight_decay must be a finite number in [0, inf), not -1.0"),
    ("reference_momentum", {"momentum": 1.0}, "momentum must be a finite number in [0, 1), not 1.0"),
    ("reference_momentum", {"dampening": 1.5}, "dampening must be a finite number in [0, 1], not 1.5"),
    ("reference_nesterov", {"momentum": 0.0}, "momentum must be a finite number in (0, 1), not 0.0"),
    ("reference_rmsprop", {"alpha": 1.0}, "alpha must be a finite number in [0, 1), not 1.0"),
    ("reference_rmsprop", {"eps": -1.0}, "eps must be a finite number in [0, inf), not -1.0"),
    ("reference_adam", {"betas": (1.0, 0.9)}, "betas[0] must be a finite number in [0, 1), not 1.0"),
    ("reference_adamw", {"eps": float("nan")}, "eps must be a finite number in [0, inf), not nan"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD_OPTIONS)
def test_bad_options_are_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\A.*\Z") as error:
        OPTIMIZERS.create(name, nn.Linear(2, 2), **options)
    assert str(error.value) == message


def test_options_of_single_groups_are_checked_too() -> None:
    def groups() -> list[dict[str, Any]]:
        return [{"params": [nn.Parameter(torch.ones(1))], "lr": -0.5}]

    with pytest.raises(ValueError, match=r"lr must be a finite number in \[0, inf\), not -0.5"):
        SGD(groups())


def test_another_optimizers_state_is_refused() -> None:
    one, other = network(), network()
    state = OPTIMIZERS.create("reference_momentum", one).state_dict()
    with pytest.raises(ValueError, match=r"\Athe saved state of parameter 0 is .*another optimizer or model\Z"):
        OPTIMIZERS.create("reference_adam", other, weight_decay=0.0).load_state_dict(state)


def test_the_loss_is_returned() -> None:
    module = network()
    optimizer = OPTIMIZERS.create("reference_adam", module)

    def closure() -> Tensor:
        loss = module(torch.ones(1, 6, dtype=torch.float64)).sum()
        loss.backward()
        return loss

    assert torch.equal(optimizer.step(closure), network()(torch.ones(1, 6, dtype=torch.float64)).sum())
