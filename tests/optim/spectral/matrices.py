"""What the tests of MuonSGD and MuonAdamW share."""

from typing import Any

import torch
from torch import Tensor, nn

SHAPES = ((6, 4), (4, 6), (5, 5), (3, 2, 2, 2), (4,))


def parameters(dtype: torch.dtype = torch.float64, shapes: Any = SHAPES) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=dtype) / 2) for shape in shapes]


def follow(members: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    """Steps along gradients that depend on the weights a little and on the step's number."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for member in members:
            noise = torch.randn(member.shape, generator=generator, dtype=member.dtype)
            member.grad = 0.1 * member.detach() + noise
        optimizer.step()


def changes(members: list[nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> list[Tensor]:
    """What one step adds to each tensor."""
    before = [member.detach().clone() for member in members]
    follow(members, optimizer, 1, step)
    return [member.detach() - old for member, old in zip(members, before, strict=True)]


def norm(change: Tensor) -> float:
    """Largest singular value, kernels flattened."""
    return torch.linalg.matrix_norm(change.flatten(1), 2).item()


def clipped(direction: Tensor, lr: float, budget: float) -> Tensor:
    """The solution of (P) by SVD."""
    u, s, v = torch.linalg.svd(direction.flatten(1), full_matrices=False)
    return -((u * (lr * s).clamp(max=budget)) @ v).reshape(direction.shape)


class Both(torch.optim.Optimizer):
    """Several optimizers as one, in the simplest way."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        super().__init__([p for one in optimizers for group in one.param_groups for p in group["params"]], {})
        self.optimizers = optimizers

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step()


def muon_and_adamw(module: nn.Module, lr: float) -> torch.optim.Optimizer:
    """torch's Muon for the linear layers but the last, torch's AdamW for the rest: independent of roles and groups."""
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    hidden = [layer.weight for layer in layers[:-1]]
    others = [p for p in module.parameters() if p.ndim == 1]
    decays: Any = [{"params": [layers[-1].weight], "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    matrices = torch.optim.Muon(hidden, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return Both(matrices, torch.optim.AdamW(decays, lr=lr, foreach=False))
