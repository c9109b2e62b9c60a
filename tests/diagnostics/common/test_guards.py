import copy
import random

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

from steepest.diagnostics.common.guards import (
    buffers_restored,
    differentiable_kernels,
    gradients_set_aside,
    measurement_mode,
    rng_restored,
    undisturbed,
    values_restored,
)


class Noisy(nn.Module):
    """Batch normalization, both kinds of dropout and a buffer that is not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.normalization = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.5)
        self.recurrent = nn.LSTM(6, 6, num_layers=2, dropout=0.5, batch_first=True)
        self.register_buffer("calls", torch.zeros(1), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1  # rebinds the buffer
        hidden = self.dropout(self.normalization(self.linear(inputs)))
        hidden = functional.dropout(hidden, 0.5, self.training)
        return self.recurrent(hidden.unsqueeze(1))[0]


def draws() -> tuple[float, float, float]:
    return random.random(), float(numpy.random.rand()), float(torch.rand(1))


def test_random_state_continues_as_if_nothing_was_drawn() -> None:
    torch.manual_seed(3)
    random.seed(3)
    numpy.random.seed(3)
    expected = [draws() for _ in range(2)]
    torch.manual_seed(3)
    random.seed(3)
    numpy.random.seed(3)
    first = draws()
    with rng_restored():
        draws()
        torch.manual_seed(0)
    assert [first, draws()] == expected


def test_buffers_keep_object_and_values() -> None:
    module = Noisy()
    before = {name: (buffer, buffer.clone()) for name, buffer in module.named_buffers()}
    with buffers_restored(module):
        module(torch.randn(8, 6))
        assert module.calls.item() == 1.0
        assert module.normalization.num_batches_tracked.item() == 1  # type: ignore[union-attr]
    for name, buffer in module.named_buffers():
        assert buffer is before[name][0]
        assert torch.equal(buffer, before[name][1])


def test_buffers_and_random_state_are_restored_after_an_error() -> None:
    module = Noisy()
    before = copy.deepcopy(module.state_dict())
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="cannot be multiplied"), undisturbed(module):
        module.linear(module(torch.randn(8, 6)).reshape(-1, 3))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(child.training for child in module.modules())
    assert module.recurrent.dropout == 0.5


def test_parameters_get_their_values_back() -> None:
    module = nn.Linear(3, 3)
    before = module.weight.detach().clone()
    with values_restored(module.parameters()):
        nn.init.zeros_(module.weight)
    assert torch.equal(module.weight, before)


def test_gradients_are_the_same_tensors_afterwards() -> None:
    module = nn.Linear(3, 1)
    module(torch.randn(4, 3)).sum().backward()
    gradient = module.weight.grad
    assert gradient is not None
    values = gradient.clone()
    module.bias.grad = None
    with gradients_set_aside(module):
        assert module.weight.grad is None
        module(torch.randn(4, 3)).sum().backward()
    assert module.weight.grad is gradient
    assert torch.equal(gradient, values)
    assert module.bias.grad is None


@pytest.mark.parametrize("mode", ["batch", "running"])
def test_the_forward_pass_is_deterministic_and_flags_come_back(mode) -> None:
    module = Noisy()
    module.dropout.eval()
    flags = {name: child.training for name, child in module.named_modules()}
    inputs = torch.randn(8, 6)
    with undisturbed(module, mode):
        assert module.normalization.training is (mode == "batch")
        assert torch.equal(module(inputs), module(inputs))
    assert {name: child.training for name, child in module.named_modules()} == flags


def test_batch_statistics_are_those_of_the_batch() -> None:
    module = nn.Sequential(nn.BatchNorm1d(4))
    inputs = 5.0 + 3.0 * torch.randn(64, 4)
    with measurement_mode(module, "batch"), buffers_restored(module):
        assert module(inputs).mean().abs() < 1e-5
    with measurement_mode(module, "running"):
        assert module(inputs).mean() > 4.0


def test_frozen_batch_normalization_stays_frozen() -> None:
    module = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    module[0].eval()
    with measurement_mode(module, "batch"):
        assert [child.training for child in module] == [False, True]


def test_unknown_batch_norm_mode_is_named() -> None:
    with pytest.raises(ValueError, match="'batch' or 'running', got 'eval'"), measurement_mode(nn.Linear(1, 1), "eval"):  # type: ignore[arg-type]
        pass


def test_compiled_attention_can_be_differentiated_twice() -> None:
    def attend(inputs: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(inputs, inputs, inputs).square().sum()

    inputs = torch.randn(1, 2, 4, 8, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(attend, backend="aot_eager")
    with differentiable_kernels():
        (gradient,) = torch.autograd.grad(compiled(inputs), inputs, create_graph=True)
        (second,) = torch.autograd.grad(gradient.sum(), inputs)
    step = 1e-6 * torch.ones_like(inputs)
    with differentiable_kernels():
        (ahead,) = torch.autograd.grad(attend(inputs + step), inputs)
        (behind,) = torch.autograd.grad(attend(inputs - step), inputs)
    assert torch.allclose(second, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-6)
