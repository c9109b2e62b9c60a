"""A problem for the tests of AutoSGM: a few tensors, noisy gradients that depend on the number of the step only."""

import torch
from torch import Tensor
from torch.optim import Optimizer

SHAPES = [(4, 3), (5,), (), (2, 3, 2, 2)]


def tensors(
    shapes: list[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float64, zeros: bool = False
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    if zeros:
        weights[0].view(-1)[::2] = 0
    return [weight.requires_grad_() for weight in weights]


def gradients(weights: list[Tensor], step: int) -> list[Tensor]:
    """Of a curved valley, with noise and a rare large entry, so that every bound of the numerators is reached."""
    generator = torch.Generator().manual_seed(step + 1)
    found = []
    for weight in weights:
        noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        noise = torch.where(torch.rand(weight.shape, generator=generator) < 0.05, 30 * noise, noise)
        found.append(weight.detach() * 2 - 0.5 + 0.3 * noise)
    return found


def train(optimizer: Optimizer, weights: list[Tensor], steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        for weight, gradient in zip(weights, gradients(weights, step), strict=True):
            weight.grad = gradient
        optimizer.step()
