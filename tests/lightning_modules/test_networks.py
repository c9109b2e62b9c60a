"""The small networks: sizes, shapes, starts and refusals."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from steepest.lightning_modules.networks import DeepMLP, SimpleMLP, SmallCNN, WidthMLP
from steepest.lightning_modules.networks.initialization import initialize

NETWORKS = [SimpleMLP, DeepMLP, WidthMLP, SmallCNN]
every_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def dense(*widths: int) -> int:
    """Weights and biases of linear layers of these widths."""
    return sum(fan_in * fan_out + fan_out for fan_in, fan_out in pairwise(widths))


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (SimpleMLP(), 101_770),
        (DeepMLP(), 244_522),
        (SmallCNN(), 824_458),
        (WidthMLP(), dense(3072, 512, 512, 10)),
        (WidthMLP(width_mult=0.25), dense(3072, 128, 128, 10)),
        (SimpleMLP((1, 8, 8), hidden=32), dense(64, 32, 10)),
        (SimpleMLP(width_mult=0.5, normalization="batch"), dense(784, 64, 10) + 2 * 64),
        (DeepMLP((1, 8, 8), 3, hidden=()), dense(64, 3)),
        (DeepMLP((3, 4, 4), 3, hidden=[10, 5], width_mult=1.5), dense(48, 15, 8, 3)),
        (DeepMLP(normalization="layer"), 244_522 + 2 * (256 + 128 + 64 + 32)),
        # 9 weights for each pair of channels; an 8x8 image is 2x2 after two poolings.
        (SmallCNN((3, 8, 8)), 9 * 3 * 32 + 32 + 9 * 32 * 64 + 64 + dense(64 * 4, 256, 10)),
        (SmallCNN((3, 8, 8), width_mult=0.25), 9 * 3 * 8 + 8 + 9 * 8 * 16 + 16 + dense(16 * 4, 64, 10)),
        (SmallCNN(normalization="batch"), 824_458 + 2 * (32 + 64 + 256)),
        (SmallCNN(normalization="layer"), 824_458 + 2 * (32 + 64 + 256)),
    ],
    ids=str,
)
def test_number_of_parameters(network: nn.Module, parameters: int) -> None:
    assert count(network) == parameters


@every_network
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
@pytest.mark.parametrize("input_shape", [(1, 28, 28), (3, 5, 7)])
def test_images_become_scores(network: Any, normalization: str, input_shape: tuple[int, int, int]) -> None:
    module = network(input_shape, num_classes=4, width_mult=0.1, normalization=normalization, dropout=0.2)
    scores = module(torch.randn(6, *input_shape))
    assert scores.shape == (6, 4)
    scores.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@every_network
def test_layers_have_names_to_read_in_figures(network: Any) -> None:
    names = [name for name, layer in network().named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert (
        names
        == {
            SimpleMLP: ["hidden1", "output"],
            DeepMLP: ["hidden1", "hidden2", "hidden3", "hidden4", "output"],
            WidthMLP: ["hidden1", "hidden2", "output"],
            SmallCNN: ["conv1", "conv2", "hidden", "output"],
        }[network]
    )


def test_deep_mlp_is_the_composition_it_says() -> None:
    network = DeepMLP((1, 2, 3), 4, hidden=(5, 5))
    images = torch.randn(7, 1, 2, 3)
    layers: dict[str, Any] = dict(network.named_children())
    expected: Tensor = images.reshape(7, 6)
    for name in ("hidden1", "hidden2"):
        expected = (expected @ layers[name].weight.T + layers[name].bias).clamp(min=0)
    expected = expected @ layers["output"].weight.T + layers["output"].bias
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize(("network", "norms"), [(SimpleMLP, 1), (DeepMLP, 4), (WidthMLP, 2), (SmallCNN, 3)])
def test_normalization_stands_between_each_hidden_layer_and_its_relu(network: Any, norms: int) -> None:
    for normalization, kinds in (("batch", (nn.BatchNorm1d, nn.BatchNorm2d)), ("layer", (nn.LayerNorm, nn.GroupNorm))):
        layers = list(network(normalization=normalization).children())
        places = [index for index, layer in enumerate(layers) if isinstance(layer, kinds)]
        assert len(places) == norms
        for place in places:
            assert isinstance(layers[place - 1], nn.Linear | nn.Conv2d)
            assert isinstance(layers[place + 1], nn.ReLU)


@every_network
def test_layer_normalization_makes_an_example_independent_of_its_batch(network: Any) -> None:
    torch.manual_seed(0)
    module = network((1, 8, 8), normalization="layer")
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(module(images)[:1], module(images[:1]))


@every_network
def test_dropout_acts_in_training_only(network: Any) -> None:
    torch.manual_seed(0)
    module = network((1, 8, 8), dropout=0.5)
    images = torch.randn(4, 1, 8, 8)
    assert not torch.equal(module(images), module(images))
    module.eval()
    assert torch.equal(module(images), module(images))


@settings(deadline=None)
@given(width_mult=st.floats(1e-4, 4))
def test_width_mult_scales_hidden_widths_only(width_mult: float) -> None:
    network = DeepMLP((1, 2, 2), 3, hidden=(10, 6), width_mult=width_mult)
    layers = [layer for layer in network.children() if isinstance(layer, nn.Linear)]
    first, second = (layer.out_features for layer in layers[:2])
    assert abs(first - 10 * width_mult) <= 0.5 or first == 1
    assert abs(second - 6 * width_mult) <= 0.5 or second == 1
    assert (layers[0].in_features, layers[-1].out_features) == (4, 3)


def layers_of(network: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def fans(layer: nn.Linear | nn.Conv2d) -> tuple[int, int]:
    """Inputs and outputs of a unit: every pixel of the kernel counts."""
    area = layer.weight[0, 0].numel()
    return layer.weight.shape[1] * area, layer.weight.shape[0] * area


@every_network
@pytest.mark.parametrize(
    ("initialization", "variance"),
    [
        ("default", lambda fan_in, fan_out: 1 / (3 * fan_in)),
        ("he", lambda fan_in, fan_out: 2 / fan_in),
        ("xavier", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    ],
)
def test_variance_of_the_initial_weights(network: Any, initialization: str, variance: Any) -> None:
    torch.manual_seed(0)
    for layer in layers_of(network(initialization=initialization)):
        expected = variance(*fans(layer))
        # The relative spread of a variance estimated from n numbers is at most sqrt(2 / n) for these distributions.
        tolerance = 5 * math.sqrt(2 / layer.weight.numel())
        assert layer.weight.var().item() == pytest.approx(expected, rel=tolerance)
        assert abs(layer.weight.mean().item()) < 5 * math.sqrt(expected / layer.weight.numel())
        is_zero = bool((layer.bias == 0).all()) if layer.bias is not None else False
        assert is_zero == (initialization != "default")


@every_network
def test_orthogonal_weights_are_orthogonal(network: Any) -> None:
    torch.manual_seed(0)
    for layer in layers_of(network(initialization="orthogonal")):
        matrix = layer.weight.detach().flatten(1).double()
        small = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
        torch.testing.assert_close(small, 2 * torch.eye(len(small), dtype=torch.float64), rtol=0, atol=1e-5)
        assert layer.bias is not None
        assert not layer.bias.any()


def test_he_keeps_the_size_of_the_signal_through_many_relu_layers() -> None:
    torch.manual_seed(0)
    images = torch.randn(64, 1, 16, 16)
    sizes = {
        name: DeepMLP((1, 16, 16), 256, hidden=[256] * 10, initialization=name)(images).square().mean().item()
        for name in ("he", "xavier", "orthogonal")
    }
    # The output layer has no ReLU behind it, so it leaves twice the mean square.
    assert sizes["he"] == pytest.approx(2, rel=0.5)
    assert sizes["orthogonal"] == pytest.approx(2, rel=0.5)
    assert sizes["xavier"] == pytest.approx(2 / 2**11, rel=0.5)


def test_initialize_leaves_other_layers_alone() -> None:
    module = nn.Sequential(nn.Embedding(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    initialize(module, "he")
    same = [torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True)]
    assert same == [True, True, True, False]


BAD_ARGUMENTS = [
    ({"input_shape": (28, 28)}, "input_shape must be (channels, height, width), each at least 1, not (28, 28)"),
    ({"input_shape": (1, 0, 8)}, "input_shape must be (channels, height, width), each at least 1, not (1, 0, 8)"),
    ({"input_shape": 784}, "input_shape must be (channels, height, width), each at least 1, not 784"),
    ({"num_classes": 0}, "num_classes must be a whole number, at least 1, not 0"),
    ({"width_mult": 0.0}, "width_mult must be a positive number, not 0.0"),
    ({"width_mult": -1.0}, "width_mult must be a positive number, not -1.0"),
    ({"width_mult": float("inf")}, "width_mult must be a positive number, not inf"),
    ({"initialization": "glorot"}, "initialization 'glorot' is unknown; allowed: default, he, xavier, orthogonal"),
    ({"normalization": "group"}, "normalization 'group' is unknown; allowed: none, batch, layer"),
    ({"dropout": 1.0}, "dropout must be in [0, 1), not 1.0"),
    ({"dropout": -0.1}, "dropout must be in [0, 1), not -0.1"),
    ({"dropout": float("nan")}, "dropout must be in [0, 1), not nan"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    for network in NETWORKS:
        with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:
            network(**arguments)
        assert str(error.value) == message


@pytest.mark.parametrize("build", [lambda: SimpleMLP(hidden=-3), lambda: DeepMLP(hidden=(8, -3))])
def test_negative_widths_are_refused(build: Any) -> None:
    with pytest.raises(ValueError, match=r"\Aa hidden width must be a whole number, at least 1, not -3\Z"):
        build()


def test_an_image_too_small_for_two_poolings_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\ASmallCNN pools twice by 2: images must be at least 4x4, not 3x8\Z"):
        SmallCNN((1, 3, 8))
    assert SmallCNN((1, 4, 4))(torch.randn(2, 1, 4, 4)).shape == (2, 10)
