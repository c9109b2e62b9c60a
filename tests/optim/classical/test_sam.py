"""SAM: its gradient, its wrapping, BatchNorm, dropout and what it refuses."""

import copy
import io
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from steepest.optim import OPTIMIZERS, OptimizerFactory
from steepest.optim.classical.lion import lion
from steepest.optim.classical.sam import SAM, sam
from steepest.optim.classical.torch_optimizers import adamw, momentum, sgd
from steepest.optim.libraries.wrapping import external
from tests.optim.classical.references.problems import Landscape, closure_of, network, train, weights


@settings(deadline=None, max_examples=30)
@given(rho=st.floats(0.0, 3.0), size=st.integers(1, 6), seed=st.integers(0, 1000))
def test_on_a_quadratic_the_gradient_is_known(rho: float, size: int, seed: int) -> None:
    """The gradient of w^T H w / 2 at w + rho * g / |g| is H (w + rho * H w / |H w|)."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    hessian = root @ root.T
    landscape = Landscape(lambda w: w @ hessian @ w / 2, torch.randn(size, generator=generator).tolist())
    start = landscape.point.detach().clone()
    landscape.minimize(sam(landscape, lr=1.0, rho=rho, base=sgd), 1)
    g = hessian @ start
    expected = start - hessian @ (start + rho * g / g.norm())
    torch.testing.assert_close(landscape.point.detach(), expected, rtol=1e-10, atol=1e-10)


def test_the_adaptive_gradient_is_known() -> None:
    hessian = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64))
    landscape = Landscape(lambda w: w @ hessian @ w / 2, [1.0, -2.0, 0.5])
    w = landscape.point.detach().clone()
    landscape.minimize(sam(landscape, lr=1.0, rho=0.3, adaptive=True, base=sgd), 1)
    g = hessian @ w
    expected = w - hessian @ (w + 0.3 * w**2 * g / (w.abs() * g).norm())
    torch.testing.assert_close(landscape.point.detach(), expected)


def test_the_adaptive_distance_ignores_the_scale_of_layers() -> None:
    """Twice the first layer and half the second is the same function, so the loss uphill is the same."""
    losses = []
    for scale in (1.0, 8.0):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
        with torch.no_grad():
            module[0].weight.mul_(scale)
            module[2].weight.div_(scale)
        optimizer = sam(module, lr=0.0, rho=1.0, adaptive=True)
        closure, seen = closure_of(module, optimizer, 0), []
        optimizer.step(lambda closure=closure, seen=seen: seen.append(closure()))
        losses.append(torch.stack(seen))
    torch.testing.assert_close(losses[0], losses[1])
    assert losses[0][1] > losses[0][0]


@pytest.mark.parametrize("base", [momentum, adamw, lion, partial(adamw, weight_decay=0.3)])
def test_without_distance_it_is_the_base(base: Any) -> None:
    ours, theirs = network(), network()
    train(ours, sam(ours, lr=0.01, rho=0.0, base=base), 10)
    train(theirs, base(theirs, lr=0.01), 10)
    assert torch.equal(weights(ours), weights(theirs))


def test_a_zero_gradient_gives_no_step_uphill() -> None:
    landscape = Landscape(lambda w: w.square().sum(), [0.0, 0.0])
    assert torch.equal(landscape.minimize(sam(landscape, lr=0.1), 3), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("base", [momentum, adamw, lion])
def test_lr_zero_freezes_to_the_bit(base: Any) -> None:
    module = network(torch.float32)
    train(module, sam(module, lr=0.0, rho=0.1, base=base), 5)
    assert torch.equal(weights(module), weights(network(torch.float32)))


def test_weights_come_back_when_the_second_evaluation_fails() -> None:
    module = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    optimizer = sam(module, lr=0.1)
    before, calls, closure = copy.deepcopy(module.state_dict()), [], closure_of(module, optimizer, 0)

    def failing() -> Tensor:
        calls.append(None)
        if len(calls) == 2:
            closure()
            raise RuntimeError("out of memory")
        return closure()

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(failing)
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        assert torch.equal(module.state_dict()[name], before[name])
    assert module[1].num_batches_tracked == 1


def test_batch_statistics_count_the_first_evaluation_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    plain = copy.deepcopy(module)
    optimizer = sam(module, lr=0.0, rho=0.5)
    train(module, optimizer, 3)
    train(plain, sgd(plain, lr=0.0), 3)
    for own, expected in zip(module.buffers(), plain.buffers(), strict=True):
        assert torch.equal(own, expected)
    assert module[1].num_batches_tracked == 3


def test_both_evaluations_have_the_same_dropout() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.5), nn.Linear(32, 3))
    optimizer = sam(module, lr=0.1)
    masks: list[Tensor] = []
    module[1].register_forward_hook(lambda _, inputs, output: masks.append(output == 0))
    train(module, optimizer, 2)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])
    assert torch.equal(masks[2], masks[3])


def test_schedules_and_monitors_see_the_groups_of_the_base() -> None:
    module = network()
    optimizer = sam(module, lr=0.1, base=partial(adamw, weight_decay=0.1))
    assert isinstance(optimizer, SAM)
    assert [group["name"] for group in optimizer.param_groups] == ["decay", "no_decay"]
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    train(module, optimizer, 1)
    schedule.step()
    assert [group["lr"] for group in optimizer.base.param_groups] == [0.05, 0.05]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    schedule.step()
    assert [group["lr"] for group in optimizer.base.param_groups] == [0.025, 0.025]
    extra = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer.add_param_group({"params": [extra], "param_names": ["extra"]})
    assert optimizer.param_groups[-1]["params"] == optimizer.base.param_groups[-1]["params"] == [extra]


@pytest.mark.parametrize("base", [momentum, adamw, lion])
def test_resumes_to_the_bit(base: Any) -> None:
    whole, first, second = network(), network(), network()
    train(whole, sam(whole, lr=0.02, base=base), 8)
    optimizer = sam(first, lr=0.02, base=base)
    train(first, optimizer, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second.load_state_dict(first.state_dict())
    resumed = sam(second, lr=0.02, base=base)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(second, resumed, 3, first=5)
    assert torch.equal(weights(second), weights(whole))


def test_copies_go_the_same_way() -> None:
    module = network()
    optimizer = sam(module, lr=0.02, base=adamw)
    train(module, optimizer, 3)
    pairs = [copy.deepcopy((module, optimizer)), pickle.loads(pickle.dumps((module, optimizer)))]
    for other in [(module, optimizer), *pairs]:
        train(*other, 3, first=3)
    assert torch.equal(weights(pairs[0][0]), weights(module))
    assert torch.equal(weights(pairs[1][0]), weights(module))


def test_parameters_without_gradient_stay_and_gradients_are_those_uphill() -> None:
    module = network()
    module[0].weight.requires_grad_(False)
    unused = nn.Linear(2, 2).double()
    both = nn.ModuleList([module, unused])
    before = weights(both)
    optimizer = sam(both, lr=0.1, rho=0.5)
    train(module, optimizer, 2)
    assert torch.equal(weights(unused), before[-6:])
    assert torch.equal(module[0].weight.flatten(), before[:48])
    assert unused.weight.grad is None


def test_the_command_line_nests_the_base() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--optimizer", type=OptimizerFactory)

    def make(*words: str) -> SAM:
        return parser.instantiate(parser.parse_args(["--optimizer=sam", *words])).optimizer(network())

    optimizer = make("--optimizer.rho=0.2", "--optimizer.base=adamw", "--optimizer.base.weight_decay=0.3")
    assert optimizer.rho == 0.2
    assert isinstance(optimizer.base, torch.optim.AdamW)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3, 0.0}
    optimizer = make("--optimizer.lr=0.7", "--optimizer.base=adamw", "--optimizer.base.lr=0.1")
    assert {group["lr"] for group in optimizer.param_groups} == {0.7}
    assert isinstance(make().base, torch.optim.SGD)


def test_bad_input_is_refused_in_one_line() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"lr": -1.0}, r"lr must be a finite number in \[0, inf\), not -1.0"),
        ({"rho": -0.1}, r"rho must be a finite number in \[0, inf\), not -0.1"),
        ({"base": OPTIMIZERS["lbfgs"]}, "sam cannot wrap LBFGS: both evaluate the model in their steps"),
        ({"base": sam}, "sam cannot wrap SAM: both evaluate the model in their steps"),
        (
            {"lr": 0.1, "base": partial(external, algorithm=torch.optim.NAdam)},
            "the base of sam takes no lr: leave sam's out and give it in the base's own options",
        ),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=rf"\A{message}\Z"):
            sam(nn.Linear(2, 2), **options)
    with pytest.raises(ValueError, match=r"\Asam evaluates the model several times in a step: [^\n]*\Z"):
        sam(network()).step()
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = sam(table, base=sgd)
    with pytest.raises(ValueError, match=r"\Asam does not support sparse gradients: use sparse=False[^\n]*\Z"):
        optimizer.step(lambda: table(torch.tensor([1])).sum().backward())
