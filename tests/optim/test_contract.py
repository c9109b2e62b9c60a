"""One battery for every registered optimizer."""

import io

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optim import OPTIMIZERS
from tests.optim.contract import CONTRACTS, Contract

battery = pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)).to(
        dtype
    )


def create(contract: Contract, module: nn.Module, lr: float | None = None) -> Optimizer:
    return OPTIMIZERS.create(contract.name, module, **contract.options(contract.lr if lr is None else lr))


def train(module: nn.Module, optimizer: Optimizer, steps: int, first: int = 0) -> None:
    """Least squares on batches that depend on the number of the step only."""
    dtype = next(module.parameters()).dtype
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(16, 6, generator=generator, dtype=dtype)
        targets = torch.randn(16, 3, generator=generator, dtype=dtype)
        optimizer.zero_grad()
        (module(inputs) - targets).square().mean().backward()
        optimizer.step()


def weights(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def test_the_contract_lists_every_registered_optimizer() -> None:
    assert sorted(contract.name for contract in CONTRACTS) == OPTIMIZERS.names()


@battery
def test_every_parameter_is_in_exactly_one_group(contract: Contract) -> None:
    module = network()
    grouped = [parameter for group in create(contract, module).param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(module.parameters())


@battery
def test_fifty_steps_equal_the_reference(contract: Contract) -> None:
    ours, theirs = network(torch.float64), network(torch.float64)
    train(ours, create(contract, ours), 50)
    train(theirs, contract.reference(theirs, contract.lr), 50)
    assert not torch.equal(weights(ours), weights(network(torch.float64)))
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-9, atol=1e-10)


@battery
def test_two_runs_are_equal_to_the_bit(contract: Contract) -> None:
    runs = []
    for _ in range(2):
        module = network()
        train(module, create(contract, module), 20)
        runs.append(weights(module))
    assert torch.equal(*runs)


@battery
def test_converges_on_a_quadratic(contract: Contract) -> None:
    module = network()
    torch.manual_seed(1)
    minimum = [torch.randn_like(parameter) for parameter in module.parameters()]

    def loss() -> Tensor:
        pairs = zip(module.parameters(), minimum, strict=True)
        return sum(((parameter - goal).square().sum() / 2 for parameter, goal in pairs), torch.zeros(()))

    start = loss().item()
    optimizer = create(contract, module)
    for _ in range(300):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.01 * start


@battery
def test_a_saved_state_continues_the_same_run(contract: Contract) -> None:
    whole = network()
    train(whole, create(contract, whole), 10)

    first = network()
    optimizer = create(contract, first)
    train(first, optimizer, 5)
    file = io.BytesIO()
    torch.save({"module": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    second = network()
    second.load_state_dict(saved["module"])
    optimizer = create(contract, second)
    optimizer.load_state_dict(saved["optimizer"])
    train(second, optimizer, 5, first=5)
    assert torch.equal(weights(second), weights(whole))


@battery
def test_lr_zero_freezes_the_weights(contract: Contract) -> None:
    module = network()
    train(module, create(contract, module, lr=0.0), 3)
    assert torch.equal(weights(module), weights(network()))


@battery
@pytest.mark.parametrize("lr", [-0.1, float("nan")])
def test_a_bad_lr_is_refused_in_one_line(contract: Contract, lr: float) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        create(contract, network(), lr=lr)


@battery
def test_nothing_to_train_is_refused(contract: Contract) -> None:
    with pytest.raises(ValueError, match="Linear has no trainable parameters"):
        create(contract, nn.Linear(2, 2).requires_grad_(False))


@battery
def test_the_help_text_describes_every_option(contract: Contract) -> None:
    text = OPTIMIZERS[contract.name].__doc__ or ""
    assert len(OPTIMIZERS.summary(contract.name)) > 20
    for option in ("module", *OPTIMIZERS.options(contract.name)):
        assert f"\n        {option}: " in text
