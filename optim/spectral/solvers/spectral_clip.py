"""Scaling into the ball: feasible and cheap, not optimal. The whole update shrinks, where the exact one only cuts."""

import torch
from torch import Tensor

from steepest.optim.spectral.solvers.clip import spectral_norm
from steepest.optim.spectral.solvers.problem import SolverResult, State
from steepest.optim.spectral.solvers.solver import Solver, no_iterations, register_solver
from steepest.optim.spectral.solvers.tangent import tangent_projection

# The fast mode estimates the norm to this accuracy unless told otherwise.
FAST_TOLERANCE = 0.01
# Up to so many columns the exact norm costs no more than the estimate.
FEW_COLUMNS = 64


@register_solver
class SpectralClip(Solver):
    """Scales lr * G (its tangent part, if asked) into the budget by its exact largest singular value."""

    name = "spectral_clip"
    exact = False

    def _solve(
        self,
        gradient: Tensor,
        weight: Tensor,
        lr: float,
        budget: float,
        *,
        tangent: bool,
        tolerance: float | None,
        max_iterations: int | None,
        state: State,
    ) -> SolverResult:
        direction = tangent_projection(gradient, weight) if tangent else gradient
        return SolverResult(_scaled(direction, spectral_norm(direction), lr, budget), no_iterations(gradient))


@register_solver
class SpectralClipFast(Solver):
    """Scales lr * G into the budget by an estimate of its largest singular value: a few passes over G, no Gram matrix.

    Block Lanczos from the last leading singular vector and a fixed one, until the residual shows the norm to
    `tolerance` (0.01 by default), and then enlarged by that residual. On momentum-averaged gradients the budget is
    exceeded by at most 1 %; for unrelated gradients from step to step that is not certain, since no product with a few
    vectors can prove a norm. `residual` says, where certified, by how much it was exceeded.
    """

    name = "spectral_clip_fast"
    exact = False
    supports_tangency = False

    def initial_state(self, weight: Tensor, *, tangent: bool = False) -> State:
        """The last leading right singular vector of the tall matrix; zero at first."""
        return {"vector": weight.new_zeros(*weight.shape[:-2], min(weight.shape[-2:]))}

    def _solve(
        self,
        gradient: Tensor,
        weight: Tensor,
        lr: float,
        budget: float,
        *,
        tangent: bool,
        tolerance: float | None,
        max_iterations: int | None,
        state: State,
    ) -> SolverResult:
        if gradient.shape[-1] <= FEW_COLUMNS:
            update = _scaled(gradient, spectral_norm(gradient), lr, budget)
            return SolverResult(update, no_iterations(gradient), state=state)
        limit = 12 if max_iterations is None else max(max_iterations, 1)
        norm, vector, passes = _estimated_norm(gradient, state["vector"], tolerance or FAST_TOLERANCE, limit)
        update = _scaled(gradient, norm, lr, budget)
        return SolverResult(update, no_iterations(gradient) + passes, state={"vector": vector})


def _scaled(direction: Tensor, norm: Tensor, lr: float, budget: float) -> Tensor:
    """-lr times a direction of this norm, shrunk to the budget where it is longer; a zero direction stays zero."""
    factor = torch.where(norm == 0, 0.0, (budget / norm).clamp(max=lr))
    return -factor[:, None, None] * direction


def _estimated_norm(matrices: Tensor, vector: Tensor, tolerance: float, limit: int) -> tuple[Tensor, Tensor, int]:
    """Largest singular values by block Lanczos on X^T X, two columns wide so that two equal ones are told apart.

    Returns:
        The norms (batch,), the leading right singular vectors (batch, n), both estimates, and how many passes it took.
    """
    columns = matrices.shape[-1]
    # The second column keeps the first from holding on to a singular vector that leads no longer; multiples of the
    # golden ratio are evenly spread and belong to no structure of a layer.
    other = (torch.arange(1, columns + 1, dtype=matrices.dtype, device=matrices.device) * 0.6180339887).frac() - 0.5
    block = torch.linalg.qr(torch.stack([vector, other.expand_as(vector)], dim=-1))[0]
    basis = images = block[..., :0]
    product = _times(matrices, block)
    scale = product.abs().amax(dim=(-2, -1))
    scale = torch.where(scale == 0, 1.0, scale + 0 * scale)[:, None, None]
    passes = 0
    while True:
        passes += 1
        image = _times(matrices.mT, product / scale) / scale
        basis, images = torch.cat([basis, block], dim=-1), torch.cat([images, image], dim=-1)
        small = (basis.mT @ images).nan_to_num()
        values, vectors = torch.linalg.eigh((small + small.mT) / 2)
        value, ritz = values[:, -1], basis @ vectors[:, :, -1:]
        residual = torch.linalg.vector_norm(images @ vectors[:, :, -1:] - value[:, None, None] * ritz, dim=(-2, -1))
        # Two passes at least: the first may find nothing but what the last call left.
        if passes >= limit or (passes > 1 and not (residual > 2 * tolerance * value).any()):
            return (value + 2 * residual).clamp(min=0).sqrt() * scale[:, 0, 0], ritz[..., 0].nan_to_num(), passes
        block = image
        for _ in range(2):
            # Once more after normalization: of a gradient of low rank only rounding errors are left.
            block = torch.linalg.qr(block - basis @ (basis.mT @ block))[0]
        product = _times(matrices, block)


def _times(matrices: Tensor, block: Tensor) -> Tensor:
    """The product of matrices with a few columns each."""
    if matrices.device.type != "cpu":
        return matrices @ block
    # Column by column: the products of matrices with two columns take ten times as long as those with vectors.
    return torch.stack(
        [
            torch.stack([matrix @ column for column in columns.mT.contiguous()], dim=-1)
            for matrix, columns in zip(matrices, block, strict=True)
        ]
    )
