"""Which implementation of a step runs, and that it stays the same when it should."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from steepest.optim.classical.torch_optimizers import adam, adamw, momentum, nesterov, rmsprop, sgd
from steepest.optim.contract.models import network, train, weights
from steepest.optim.core.implementation import fastest, without_fused


def is_fused(optimizer: Optimizer) -> bool:
    flags = {bool(group.get("fused")) for group in optimizer.param_groups}
    assert len(flags) == 1
    return flags.pop()


@pytest.mark.parametrize("factory", [sgd, momentum, nesterov, adam, adamw])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fused_wherever_it_exists(factory: Any, dtype: torch.dtype) -> None:
    module = network(dtype)
    optimizer = factory(module, lr=0.01)
    assert is_fused(optimizer)
    train(module, optimizer, 2)
    assert weights(module).isfinite().all()


@pytest.mark.parametrize("factory", [sgd, momentum, nesterov, adam, adamw])
def test_fused_can_be_refused(factory: Any) -> None:
    optimizer = factory(network(), fused=False)
    assert not is_fused(optimizer)
    # PyTorch's foreach step of Nesterov's momentum would write into the gradients.
    assert all(group["foreach"] is (factory is not nesterov) for group in optimizer.param_groups)


def test_foreach_where_no_fused_step_exists() -> None:
    assert all(group["foreach"] for group in rmsprop(network()).param_groups)


def test_sparse_gradients_train_without_fused() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    start = weights(table)
    optimizer = sgd(table, lr=0.5)
    assert not is_fused(optimizer)
    table(torch.tensor([1])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(weights(table), start - 0.5 * torch.tensor([0.0, 0, 1, 1, 0, 0, 0, 0]))


def test_forcing_the_impossible_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"\Afused=True is not possible: a module has sparse gradients; use fused=False"
    ):
        sgd(nn.Embedding(4, 2, sparse=True), fused=True)
    with pytest.raises(ValueError, match=r"\Afused=True is not possible: RMSprop has no fused step"):
        fastest(torch.optim.RMSprop, network(), fused=True)
    with pytest.raises(ValueError, match=r"\Afused=True is not possible: a parameter is on device 'meta'"):
        adam(network().to("meta"), fused=True)
    with pytest.raises(ValueError, match=r"\Afused=True is not possible: a parameter has type torch.complex64"):
        adam(nn.Linear(2, 2, dtype=torch.complex64), fused=True)


@pytest.mark.parametrize("factory", [sgd, momentum, adamw])
@pytest.mark.parametrize("steps_before", [0, 5])
def test_without_fused_goes_on_with_the_same_run(factory: Any, steps_before: int) -> None:
    switched, foreach = network(torch.float64), network(torch.float64)
    optimizer = factory(switched, lr=0.01)
    train(switched, optimizer, steps_before)
    without_fused(optimizer)
    assert not is_fused(optimizer)
    assert all(group["foreach"] for group in optimizer.param_groups)
    train(switched, optimizer, 10, first=steps_before)
    train(foreach, factory(foreach, lr=0.01, fused=False), steps_before + 10)
    torch.testing.assert_close(weights(switched), weights(foreach), rtol=1e-10, atol=1e-12)


def test_without_fused_leaves_gradient_scaling_to_the_scaler() -> None:
    scaled, bare = network(), network()
    optimizer = adamw(scaled, lr=0.01)
    assert getattr(optimizer, "_step_supports_amp_scaling", False)
    without_fused(optimizer)
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    inputs = torch.linspace(-1, 1, 12).reshape(2, 6)
    scaler.scale(scaled(inputs).square().sum()).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(scaled.parameters(), 0.1)
    scaler.step(optimizer)

    bare(inputs).square().sum().backward()
    nn.utils.clip_grad_norm_(bare.parameters(), 0.1)
    adamw(bare, lr=0.01, fused=False).step()
    torch.testing.assert_close(weights(scaled), weights(bare))


def test_without_fused_leaves_other_optimizers_alone() -> None:
    optimizer = torch.optim.LBFGS(network().parameters())
    groups = [dict(group) for group in optimizer.param_groups]
    without_fused(optimizer)
    assert optimizer.param_groups == groups
    assert not hasattr(optimizer, "_step_supports_amp_scaling")


@pytest.mark.parametrize("fused", [True, False])
def test_a_loaded_state_keeps_the_implementation_of_this_run(fused: bool) -> None:
    module = network()
    saved = adam(module, lr=0.3, fused=not fused)
    train(module, saved, 3)
    optimizer = adam(module, fused=fused)
    optimizer.load_state_dict(saved.state_dict())
    assert is_fused(optimizer) == fused
    assert optimizer.param_groups[0]["lr"] == 0.3
    train(module, optimizer, 3, first=3)
    assert {float(state["step"]) for state in optimizer.state.values()} == {6.0}


def test_a_state_of_other_groups_is_refused() -> None:
    module = network()
    with pytest.raises(ValueError, match="saved in another parameter group"):
        adam(module).load_state_dict(adam(module, weight_decay=0.1).state_dict())
    with pytest.raises(ValueError, match="saved in another parameter group"):
        adam(module, weight_decay=0.1).load_state_dict(adam(module).state_dict())
