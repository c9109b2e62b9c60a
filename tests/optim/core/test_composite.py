"""The composite optimizer, the loading of its state by name, and 16-bit parameters."""

import copy
import io
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.optim.core.algorithm import ALGORITHMS, Algorithm, State, Statistics, register_algorithm
from steepest.optim.core.composite import Composite, split_by_dimensions


class HeavyBall(Algorithm):
    """v <- momentum * v + g, w <- w - lr * v."""

    name = "test_heavy_ball"
    defaults = {"momentum": 0.5}

    def initial_state(self, weight: Tensor, group: Mapping[str, Any]) -> State:
        return {"velocity": torch.zeros_like(weight), "steps": torch.zeros((), dtype=torch.int64)}

    def update(self, group, weights, gradients, states, statistics: Statistics | None) -> None:
        for index, (weight, gradient, state) in enumerate(zip(weights, gradients, states, strict=True)):
            state["velocity"].mul_(group["momentum"]).add_(gradient)
            state["steps"] += 1
            weight.sub_(group["lr"] * state["velocity"])
            if statistics is not None:
                statistics[index]["speed"] = state["velocity"].norm()


@pytest.fixture(autouse=True)
def _registered():
    register_algorithm(HeavyBall)
    yield
    del ALGORITHMS[HeavyBall.name]


def build(module: nn.Module, **options: Any) -> Composite:
    """Two groups, so that order and names matter."""
    members = list(module.named_parameters())
    common = {"algorithm": HeavyBall.name, "lr": 0.1, **options}
    return Composite([{**common, "params": members[:1]}, {**common, "params": members[1:], "momentum": 0.9}])


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    inputs = torch.linspace(-1, 1, 20, dtype=next(module.parameters()).dtype).reshape(5, 4)
    for _ in range(steps):
        optimizer.zero_grad()
        module(inputs).square().sum().backward()
        optimizer.step()


def weights(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().double()


def test_each_group_takes_its_own_options_and_defaults() -> None:
    ours, theirs = network(torch.float64), network(torch.float64)
    members = list(theirs.parameters())
    sgd = torch.optim.SGD([{"params": members[:1], "momentum": 0.5}, {"params": members[1:], "momentum": 0.9}], lr=0.1)
    train(ours, build(ours), 10)
    train(theirs, sgd, 10)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-12, atol=1e-12)


def test_state_is_there_before_the_first_step_and_survives_weights_only_pickle_and_deepcopy() -> None:
    module = network()
    optimizer = build(module)
    assert all(set(optimizer.state[parameter]) == {"velocity", "steps"} for parameter in module.parameters())
    train(module, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    copied_module, copied = copy.deepcopy((module, optimizer))
    pickled_module, pickled = pickle.loads(pickle.dumps((module, optimizer)))
    resumed_module = copy.deepcopy(module)
    resumed = build(resumed_module)
    resumed.load_state_dict(saved)
    train(module, optimizer, 4)
    for other_module, other in ((copied_module, copied), (pickled_module, pickled), (resumed_module, resumed)):
        train(other_module, other, 4)
        assert torch.equal(weights(module), weights(other_module))


def test_state_is_matched_by_name_whatever_the_order() -> None:
    module = network()
    optimizer = build(module)
    train(module, optimizer, 3)
    twin = copy.deepcopy(module)
    members = dict(twin.named_parameters())
    common = {"algorithm": HeavyBall.name, "lr": 0.1}
    reordered = Composite(
        [
            {**common, "params": [(name, members[name]) for name in ("2.bias", "0.bias", "2.weight")], "momentum": 0.9},
            {**common, "params": [("0.weight", members["0.weight"])]},
        ]
    )
    reordered.load_state_dict(optimizer.state_dict())
    train(module, optimizer, 3)
    train(twin, reordered, 3)
    assert torch.equal(weights(module), weights(twin))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s["param_groups"][0].update(param_names=["other"]),
            "has no parameter '0.weight': it belongs to another",
        ),
        (lambda s: s["param_groups"][0].update(algorithm="adamw"), "of algorithm 'adamw', not 'test_heavy_ball'"),
        (lambda s: s["state"][0].pop("velocity"), "of parameter '0.weight' lacks 'velocity'"),
        (lambda s: s["state"][0].update(extra=torch.ones(1)), "of parameter '0.weight' has 'extra'"),
        (lambda s: s["state"][0].update(velocity=torch.ones(2)), r"has shape \(2,\), expected \(3, 4\)"),
        (lambda s: s["state"].pop(0), "of parameter '0.weight' lacks 'velocity'"),
    ],
)
def test_a_state_of_something_else_is_refused(change: Any, message: str) -> None:
    optimizer = build(network())
    state = copy.deepcopy(optimizer.state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)


def test_a_parameter_that_changed_its_group_is_refused() -> None:
    module = network()
    state = build(module).state_dict()
    whole = Composite([{"params": list(module.named_parameters()), "algorithm": HeavyBall.name, "lr": 0.1}])
    with pytest.raises(ValueError, match="saved in another parameter group: use the options"):
        whole.load_state_dict(state)


def test_statistics_only_when_asked_by_parameter_name() -> None:
    module = network()
    optimizer = build(module)
    train(module, optimizer, 1)
    assert optimizer.last_stats == {}
    optimizer.record_statistics = True
    module[2].bias.requires_grad_(False)
    module[2].bias.grad = None
    train(module, optimizer, 1)
    assert set(optimizer.last_stats) == {"0.weight", "0.bias", "2.weight"}
    expected = optimizer.state[module[0].weight]["velocity"].norm()
    assert torch.equal(optimizer.last_stats["0.weight"]["speed"], expected)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"algorithm": "test_heavy_bal"}, "unknown algorithm 'test_heavy_bal'. Did you mean 'test_heavy_ball'"),
        ({"momentun": 0.9}, "unknown option of algorithm test_heavy_ball 'momentun'. Did you mean 'momentum'"),
        ({"lr": -1.0}, r"lr must be a finite number in \[0, inf\), not -1.0"),
        ({"rounding": "up"}, "rounding must be one of nearest, kahan, stochastic, not 'up'"),
        ({"params": [torch.zeros(2, dtype=torch.complex64)]}, "type torch.complex64: real floating point only"),
        ({"params": [torch.zeros(2, dtype=torch.float16)], "rounding": "stochastic"}, "is for bfloat16 parameters"),
        ({"params": [nn.UninitializedParameter()]}, "has no shape yet"),
    ],
)
def test_bad_groups_are_refused(group: dict, message: str) -> None:
    common = {"params": [torch.zeros(2, requires_grad=True)], "algorithm": HeavyBall.name, "lr": 0.1}
    with pytest.raises(ValueError, match=message):
        Composite([{**common, **group}])


def test_sparse_gradients_are_refused_in_one_line() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = Composite([{"params": table.parameters(), "algorithm": HeavyBall.name, "lr": 0.1}])
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="does not support sparse gradients: use sparse=False"):
        optimizer.step()


def test_bare_parameters_split_by_dimensions() -> None:
    members = [("a", torch.zeros(2, 2)), ("b", torch.zeros(2)), ("c", torch.zeros(1, 2, 3))]
    groups = split_by_dimensions([{"params": members, "lr": 1.0}], {"algorithm": "x", "lr": 0.1}, {"algorithm": "y"})
    assert [([name for name, _ in group["params"]], group["algorithm"], group["lr"]) for group in groups] == [
        (["a", "c"], "x", 1.0),
        (["b"], "y", 1.0),
    ]


@pytest.mark.parametrize("rounding", ["kahan", "stochastic"])
def test_small_steps_are_not_lost_in_bfloat16(rounding: str) -> None:
    """A thousand steps of 1e-4 from 1: rounding to the nearest stays at 1, since bfloat16 there has steps of 2^-7."""

    def after(mode: str) -> Tensor:
        parameter = nn.Parameter(torch.ones(200, dtype=torch.bfloat16))
        group = {"params": [parameter], "algorithm": HeavyBall.name, "lr": 1e-4, "momentum": 0.0, "rounding": mode}
        optimizer = Composite([group])
        for _ in range(1000):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        return parameter.detach().float()

    assert torch.equal(after("nearest"), torch.ones(200))
    found = after(rounding)
    assert found.mean().item() == pytest.approx(0.9, abs=0.004)
    if rounding == "kahan":
        assert found.std().item() == 0
        assert (found - 0.9).abs().max().item() <= 2**-8


def test_stochastic_rounding_is_repeatable_and_moves_no_other_random_number() -> None:
    def run() -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        module = network(torch.bfloat16)
        train(module, build(module, rounding="stochastic"), 5)
        return weights(module), torch.rand(3)

    first, second = run(), run()
    torch.manual_seed(1)
    network()
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], torch.rand(3))


@pytest.mark.parametrize("rounding", ["nearest", "kahan", "stochastic"])
def test_low_precision_resumes_to_the_bit(rounding: str) -> None:
    module = network(torch.bfloat16)
    optimizer = build(module, rounding=rounding)
    train(module, optimizer, 3)
    twin = copy.deepcopy(module)
    resumed = build(twin, rounding=rounding)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.state[twin[0].weight]["velocity"].dtype == torch.float32
    train(module, optimizer, 3)
    train(twin, resumed, 3)
    assert torch.equal(weights(module), weights(twin))


def test_statistics_belong_to_their_parameter_also_behind_one_without_a_gradient() -> None:
    members = list(network().named_parameters())
    optimizer = Composite([{"algorithm": HeavyBall.name, "lr": 0.1, "params": members}])
    optimizer.record_statistics = True
    for index, (_, parameter) in enumerate(members):
        parameter.grad = None if index == 1 else torch.full_like(parameter, float(index + 1))
    optimizer.step()
    expected = {
        name: (index + 1.0) * parameter.numel() ** 0.5 for index, (name, parameter) in enumerate(members) if index != 1
    }
    assert {name: float(entry["speed"]) for name, entry in optimizer.last_stats.items()} == pytest.approx(expected)
