"""Problems to solve, and answers to them that share no code with the solvers."""

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from steepest.optim.spectral.solvers import SOLVERS

NAMES = sorted(SOLVERS)
EXACT = [name for name in NAMES if SOLVERS[name].exact]
# `none` has no budget to keep, the fast mode keeps it to one percent.
FEASIBLE = [name for name in NAMES if name not in ("none", "spectral_clip_fast")]
TANGENTIAL = [name for name in NAMES if SOLVERS[name].supports_tangency]

SEEDS = st.integers(0, 2**31 - 1)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))
KINDS = st.sampled_from(["gaussian", "ill", "deficient", "zero"])
SCALES = st.sampled_from([1e-20, 1e-3, 1.0, 1e20])


def gradients(kind: str, shape: tuple[int, int], seed: int, batch: int = 2) -> Tensor:
    """Gradients (batch, m, n) in float64: Gaussian, of condition 1e4, of half the full rank, or zero."""
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    rank = values.shape[1]
    if kind == "ill":
        values = torch.logspace(0, -4, rank, dtype=torch.float64).expand_as(values)
    if kind == "deficient":
        values = values * (torch.arange(rank) < (rank + 1) // 2)
    return (left * values[:, None, :]) @ right * (0.0 if kind == "zero" else 1.0)


def orthonormal(shape: tuple[int, int], seed: int, batch: int = 2) -> Tensor:
    """Weights (batch, m, n) with orthonormal columns or rows, in float64."""
    left, _, right = torch.linalg.svd(gradients("gaussian", shape, seed + 1, batch), full_matrices=False)
    return left @ right


def general(shape: tuple[int, int], seed: int, batch: int = 2) -> Tensor:
    """Gaussian weights (batch, m, n), in float64."""
    return gradients("gaussian", shape, seed + 2, batch)


def clipped(gradient: Tensor, lr: float, budget: float) -> Tensor:
    """The solution of (P), by its definition; in the linear limit over the singular values that are not zero."""
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    if math.isinf(lr):
        steps = budget * (values > 1e-12 * values.amax(-1, keepdim=True)).double()
    else:
        steps = (lr * values).clamp(max=budget)
    return -(left * steps[:, None, :]) @ right


def objective(gradient: Tensor, update: Tensor, lr: float) -> Tensor:
    """<G, D> + |D|^2 / (2 lr)."""
    return (gradient * update).sum((1, 2)) + update.square().sum((1, 2)) / (2 * lr)


def norms(matrices: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrices, 2)


def tangency(weight: Tensor, update: Tensor) -> Tensor:
    """Largest entry of W^T D + D^T W, or of its counterpart for wide matrices."""
    if weight.shape[-2] < weight.shape[-1]:
        weight, update = weight.mT, update.mT
    product = weight.mT @ update
    return (product + product.mT).abs().amax((1, 2))
