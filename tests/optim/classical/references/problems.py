"""Small problems that the tests of references, L-BFGS and SAM share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def closure_of(module: nn.Module, optimizer: Optimizer, batch: int) -> Callable[[], Tensor]:
    """Evaluates least squares on a batch that depends on its number only."""
    generator = torch.Generator().manual_seed(batch)
    dtype = next(module.parameters()).dtype
    inputs = torch.randn(16, 6, generator=generator, dtype=dtype)
    targets = torch.randn(16, 3, generator=generator, dtype=dtype)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (module(inputs) - targets).square().mean()
        loss.backward()
        return loss.detach()

    return closure


def train(module: nn.Module, optimizer: Optimizer, steps: int, first: int = 0) -> None:
    """Batch after batch, or the same one for ever if `first` is below 0."""
    for step in range(first, first + steps):
        optimizer.step(closure_of(module, optimizer, max(step, 0) if first >= 0 else 0))


def weights(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


class Landscape(nn.Module):
    """A function of one vector, as a model whose output is its loss."""

    def __init__(self, function: Callable[[Tensor], Tensor], start: list[float]) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.function = function
        self.evaluations = 0

    def minimize(self, optimizer: Optimizer, steps: int) -> Tensor:
        def closure() -> Tensor:
            optimizer.zero_grad()
            self.evaluations += 1
            loss = self.function(self.point)
            loss.backward()
            return loss.detach()

        for _ in range(steps):
            optimizer.step(closure)
        return self.point.detach()


def rosenbrock(point: Tensor) -> Tensor:
    """A curved valley; the minimum is where all coordinates are 1."""
    return (100 * (point[1:] - point[:-1] ** 2) ** 2 + (1 - point[:-1]) ** 2).sum()
