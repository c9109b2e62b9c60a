"""The small models and data of the checks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer


class Network(nn.Module):
    """A small classifier with a first layer, hidden matrices, normalization and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores of shape (batch, 3) for inputs of shape (batch, 6)."""
        hidden = torch.tanh(self.norm(self.first(inputs)))
        return self.head(torch.tanh(self.hidden(hidden)))


class Valley(nn.Module):
    """Rosenbrock's function of two numbers, beside a small quadratic bowl in matrices of each role."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        self.point = nn.Parameter(torch.tensor([-1.2, 1.0]))

    def rosenbrock(self) -> Tensor:
        """(1 - x)^2 + 100 (y - x^2)^2, 24.2 at the start, 0 at (1, 1)."""
        x, y = self.point
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    def bowl(self) -> Tensor:
        """Half the sum of squares of all other parameters."""
        return sum((p.square().sum() / 2 for p in self.layers.parameters()), torch.zeros(()))


def network(dtype: torch.dtype = torch.float32, seed: int = 0) -> Network:
    """The classifier from a seed, without moving the global random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network().to(dtype)


def data(step: int, dtype: torch.dtype = torch.float32, size: int = 16) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a solvable task; a function of the step alone."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(size, 6, generator=generator)
    return inputs.to(dtype), inputs[:, :3].argmax(1)


def train(module: nn.Module, optimizer: Optimizer, steps: int, first: int = 0) -> None:
    """Steps with a closure, which every optimizer accepts, on batches `first`, `first + 1`, ..."""
    dtype = next(module.parameters()).dtype
    for step in range(first, first + steps):
        inputs, labels = data(step, dtype)

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            loss = functional.cross_entropy(module(inputs), labels)
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]


def weights(module: nn.Module) -> Tensor:
    """All parameters as one vector, a copy."""
    return nn.utils.parameters_to_vector([p.contiguous() for p in module.parameters()]).detach().clone()


def minimize(optimizer: Optimizer, loss: Callable[[], Tensor], steps: int) -> tuple[float, float]:
    """Minimize a loss by closures; returns its values before and after."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    first = loss().item()
    for _ in range(steps):
        optimizer.step(closure)  # type: ignore[arg-type]
    return first, loss().item()


def backward(module: nn.Module, optimizer: Optimizer, step: int) -> None:
    """Gradients of one batch, without a step."""
    inputs, labels = data(step)
    optimizer.zero_grad()
    functional.cross_entropy(module(inputs), labels).backward()
