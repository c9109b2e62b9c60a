from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.diagnostics.spectral.convolution import (
    circular_singular_values,
    convolution_input_shapes,
    convolution_operator,
    is_circular,
    is_convolution,
)
from steepest.diagnostics.spectral.singular_values import golub_kahan, singular_values

LAYERS: list[tuple[Any, tuple[int, ...]]] = [
    (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 6, 5)),
    (lambda: nn.Conv2d(3, 4, 3, stride=2), (3, 7, 6)),
    (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=2), (4, 6, 6)),
    (lambda: nn.Conv2d(2, 3, (3, 1), padding="same"), (2, 5, 5)),
    (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
    (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", stride=2), (2, 5, 5)),
    (lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="replicate"), (2, 5, 5)),
    (lambda: nn.Conv1d(3, 5, 4, stride=3), (3, 11)),
    (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 3, 4, 3)),
    (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1), (3, 4, 4)),
    (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2, dilation=2), (4, 5)),
]


def dense(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The layer's matrix, from its own forward pass on the unit images."""
    size = int(torch.tensor(shape).prod())
    with torch.no_grad():
        images = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        return (layer(images) - layer(torch.zeros(1, *shape, dtype=torch.float64))).flatten(1).mT


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_the_operator_is_the_dense_matrix_of_the_layer(make, shape) -> None:
    torch.manual_seed(0)
    layer = make().double()
    expected = dense(layer, shape)
    operator = convolution_operator(layer, shape)
    vectors = torch.randn(3, expected.shape[1], dtype=torch.float64)
    images, adjoint = operator(vectors)
    torch.testing.assert_close(images, vectors @ expected.mT)
    back = torch.randn(3, expected.shape[0], dtype=torch.float64)
    torch.testing.assert_close(adjoint(back), back @ expected)
    found = golub_kahan(operator, vectors[:1], 40)
    assert found.norms.item() == pytest.approx(float(torch.linalg.matrix_norm(expected, ord=2)), rel=1e-6)
    assert not any(parameter.grad is not None for parameter in layer.parameters())


def test_it_is_another_quantity_than_the_norm_of_the_kernel() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, padding=1).double()
    nn.init.constant_(layer.weight, 0.1)
    norm = golub_kahan(convolution_operator(layer, (8, 16, 16)), torch.randn(1, 2048, dtype=torch.float64), 30).norms
    flattened = singular_values(layer.weight.detach().flatten(1))[0]
    # All entries 0.1: 0.1 * sqrt(8 * 72) against almost 0.1 * 8 * 9 in the middle of a large image.
    assert flattened.item() == pytest.approx(2.4)
    assert 6.5 < norm.item() < 7.2


@pytest.mark.parametrize(("groups", "dilation", "kernel"), [(1, 1, 3), (2, 1, 3), (1, 2, 3), (4, 1, (1, 3))])
def test_the_fourier_transform_gives_all_singular_values_of_circular_convolutions(groups, dilation, kernel) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(
        4, 8, kernel, padding="same", padding_mode="circular", groups=groups, dilation=dilation, dtype=torch.float64
    )
    assert is_circular(layer)
    found = circular_singular_values(layer.weight, (6, 5), groups, layer.dilation).sort(descending=True).values
    expected = torch.linalg.svdvals(dense(layer, (4, 6, 5)))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 2, 3, padding=1),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", stride=2),
        nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"),
        nn.ConvTranspose2d(2, 2, 3, padding=1),
        nn.Linear(2, 2),
    ],
)
def test_what_the_fourier_transform_does_not_describe(layer) -> None:
    assert not is_circular(layer)


def test_a_kernel_larger_than_the_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"covers \[5, 5\] does not fit into an input of \[4, 6\]"):
        circular_singular_values(torch.randn(2, 2, 3, 3), (4, 6), dilation=(2, 2))


def test_other_layers_are_refused() -> None:
    assert not is_convolution(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Linear is not a convolution"):
        convolution_operator(nn.Linear(2, 2), (2,))


def test_input_shapes_are_those_of_the_first_call() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 3, 3, stride=2)
            self.line = nn.Conv1d(3, 1, 2)
            self.unused = nn.Conv2d(1, 1, 1)

        def forward(self, images: Tensor) -> Tensor:
            images = self.down(self.down(images))
            return self.line(images.flatten(2))

    network = Network()
    shapes = convolution_input_shapes(network, lambda: network(torch.zeros(2, 3, 15, 11)))
    assert shapes == {"down": (3, 15, 11), "line": (3, 6)}
    assert not any(layer._forward_pre_hooks for layer in network.modules())
    # One image without a batch dimension is the same.
    assert convolution_input_shapes(network.down, lambda: network.down(torch.zeros(3, 9, 8))) == {"": (3, 9, 8)}


def test_a_kernel_without_a_dilation_is_not_dilated() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False).double()
    expected = torch.linalg.svdvals(dense(layer, (2, 5, 4)))
    found = circular_singular_values(layer.weight, (5, 4)).sort(descending=True).values
    torch.testing.assert_close(found, expected[: len(found)])
    dilated = nn.Conv2d(2, 3, 3, padding=2, dilation=2, padding_mode="circular", bias=False).double()
    found = circular_singular_values(dilated.weight, (6, 5), dilation=(2, 2)).sort(descending=True).values
    torch.testing.assert_close(found, torch.linalg.svdvals(dense(dilated, (2, 6, 5)))[: len(found)])
