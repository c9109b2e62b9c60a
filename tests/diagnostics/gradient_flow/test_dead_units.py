import pytest
import torch
from torch import nn

from steepest.diagnostics.gradient_flow.dead_units import dead_relu_units, has_relu


def test_planted_dead_features_are_found() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.LeakyReLU(), nn.Linear(4, 3), nn.ReLU6())
    with torch.no_grad():
        module[0].bias.fill_(3.0)  # type: ignore[union-attr]
        module[0].bias[torch.tensor([1, 4])] = -1e3  # type: ignore[index, union-attr]
        module[4].bias.fill_(50.0)  # type: ignore[union-attr]  # saturated at 6, not dead
    flags = dead_relu_units(module, lambda: module(torch.rand(16, 5)))
    assert list(flags) == ["1", "5"]
    assert flags["1"].tolist() == [False, True, False, False, True, False]
    assert not flags["5"].any()


@pytest.mark.parametrize("shape", [(4, 3, 10), (4, 3, 6, 6)])
def test_a_channel_is_dead_only_if_zero_at_every_position(shape) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv1d(3, 4, 1, bias=True) if len(shape) == 3 else nn.Conv2d(3, 4, 1)
    module = nn.Sequential(convolution, nn.ReLU(inplace=True))
    nn.init.zeros_(convolution.weight)
    with torch.no_grad():
        assert convolution.bias is not None
        convolution.bias.copy_(torch.tensor([1.0, -1.0, 1.0, -1.0]))
        convolution.weight[3, 0] = 10.0
    inputs = torch.zeros(shape)
    inputs[2, 0].view(-1)[5] = 1.0  # one position of one sample wakes channel 3
    assert dead_relu_units(module, lambda: module(inputs))["1"].tolist() == [False, True, False, False]


def test_tokens_have_their_features_last() -> None:
    module = nn.Sequential(nn.Linear(3, 7), nn.ReLU())
    assert dead_relu_units(module, lambda: module(torch.randn(2, 5, 3)))["1"].shape == (7,)


def test_a_module_called_twice_is_counted_twice() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Linear(2, 3), nn.Linear(3, 5), nn.ReLU()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.relu(self.second(self.relu(self.first(inputs))))

    module = Shared()
    flags = dead_relu_units(module, lambda: module(torch.randn(8, 2)))
    assert {name: len(units) for name, units in flags.items()} == {"relu": 3, "relu#2": 5}


def test_hooks_are_removed_even_after_an_error() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(RuntimeError):
        dead_relu_units(module, lambda: module(torch.randn(2, 3)))
    assert all(not child._forward_hooks for child in module.modules())


def test_nan_is_not_a_dead_unit() -> None:
    module = nn.Sequential(nn.Identity(), nn.ReLU())
    assert dead_relu_units(module, lambda: module(torch.full((3, 2), torch.nan)))["1"].tolist() == [False, False]


def test_networks_without_relu() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    assert not has_relu(module)
    assert dead_relu_units(module, lambda: module(torch.randn(3, 2))) == {}
