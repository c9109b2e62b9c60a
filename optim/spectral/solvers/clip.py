"""Singular values, and what is done to them: clipping, the polar factor, retraction.

Matrices are batched over leading dimensions; what is not finite gives NaN. A Gram matrix X^T X is cheaper to
decompose than X by several times, but its eigenvalues are squares: below sqrt(machine epsilon) of the largest one they
are noise. So every shortcut through it says down to where it holds, and matrices beyond that take the long way.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from steepest.optim.spectral.matrices import gram

# Smallest ratio of a singular value to the largest one at which dividing by it, read off a Gram matrix, keeps five
# digits in float32 and seven in float64: the relative error is about epsilon / ratio^2.
GRAM_LIMIT = {torch.float32: 0.1, torch.float64: 3e-5}
# Updates aim just inside the budget, so that rounding does not carry them out of it.
INSIDE = {torch.float32: 1 - 4e-6, torch.float64: 1 - 1e-12}


def spectral_norm(matrices: Tensor) -> Tensor:
    """Largest singular value of each matrix, exact up to rounding; shape (...)."""
    unit, scale = normalized(matrices)
    return torch.linalg.eigvalsh(_gram(_tall(unit)))[..., -1].clamp(min=0).sqrt() * scale


def singular_values(matrices: Tensor) -> Tensor:
    """All singular values, largest first, also the small ones to working precision; shape (..., min(m, n))."""
    unit, scale = normalized(matrices)
    if matrices.dtype == torch.float64:
        return torch.linalg.svdvals(unit) * scale[..., None]
    eigenvalues = torch.linalg.eigvalsh(_gram(_tall(unit).double()))
    return eigenvalues.flip(-1).clamp(min=0).sqrt().to(matrices.dtype) * scale[..., None]


def decomposed(matrices: Tensor, threshold: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition of tall matrices, in float32 mostly through the Gram matrix in float64.

    Args:
        matrices: Shape (batch, m, n), m >= n.
        threshold: Left singular vectors need only be accurate for singular values above it; a number or shape (batch,).

    Returns:
        Left singular vectors (batch, m, n), singular values (batch, n) from large to small, and right singular
        vectors (batch, n, n) as columns.
    """
    if matrices.dtype == torch.float64:
        left, values, right = torch.linalg.svd(matrices, full_matrices=False)
        return left, values, right.mT
    double = matrices.double()
    eigenvalues, right = torch.linalg.eigh(_gram(double))
    values, right = eigenvalues.flip(-1).clamp(min=0).sqrt(), right.flip(-1)
    left = double @ right / values.clamp(min=torch.finfo(torch.float32).tiny)[:, None, :]
    left, values, right = (part.to(matrices.dtype) for part in (left, values, right))
    lost = values[:, -1].clamp(min=threshold) <= GRAM_LIMIT[torch.float64] * values[:, 0]
    if lost.any():
        left[lost], values[lost], rest = torch.linalg.svd(matrices[lost], full_matrices=False)
        right[lost] = rest.mT
    return left, values, right


def saturated(matrices: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Map the singular values s of tall matrices to min(s / threshold, 1): clip(X / threshold, 1).

    A threshold of 0 gives the polar factor over the singular values that are not zero.

    Args:
        matrices: Shape (batch, m, n), m >= n, neither huge nor tiny (their squares must be representable).
        threshold: Shape (batch,), at least 0.

    Returns:
        The mapped matrices and their singular values before, of shape (batch, n), from small to large.
    """
    eigenvalues, right = torch.linalg.eigh(_gram(matrices))
    values = eigenvalues.clamp(min=0).sqrt()
    limit = GRAM_LIMIT[matrices.dtype] * values[:, -1]
    factors = 1 / torch.maximum(torch.maximum(values, threshold[:, None]), limit[:, None]).clamp(
        min=torch.finfo(matrices.dtype).tiny
    )
    mapped = (matrices @ right * factors[:, None, :]) @ right.mT
    lost = torch.maximum(values[:, 0], threshold) < limit
    if lost.any():
        mapped[lost], values[lost] = _saturated_by_svd(matrices[lost], threshold[lost])
    return mapped, values


def clip_svd(matrices: Tensor, bound: float) -> Tensor:
    """Cut singular values down to a bound, by the definition: the reference for the other two forms."""
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    return (left * values.clamp(max=bound)[..., None, :]) @ right


def clip_gram(matrices: Tensor, bound: float) -> Tensor:
    """Cut singular values down to a bound, by eigenvectors of the Gram matrix: for five Newton–Schulz steps' cost.

    Args:
        matrices: Shape (..., m, n).
        bound: Largest singular value afterwards, above 0.
    """
    tall = _tall(matrices)
    unit, scale = normalized(tall.reshape(-1, *tall.shape[-2:]))
    clipped = saturated(unit, bound / scale)[0] * (bound + 0 * scale)[:, None, None]
    return _as_given(clipped.reshape(tall.shape), matrices)


def polar_factor(matrices: Tensor) -> Tensor:
    """U V^T over the singular values that are not zero: the nearest matrix with orthonormal columns (or rows).

    Args:
        matrices: Shape (..., m, n).
    """
    tall = _tall(matrices)
    unit, scale = normalized(tall.reshape(-1, *tall.shape[-2:]))
    polar = saturated(unit, torch.zeros_like(scale))[0] + 0 * scale[:, None, None]
    return _as_given(polar.reshape(tall.shape), matrices)


def clip_sign(matrices: Tensor, bound: float, polar: Callable[[Tensor], Tensor] = polar_factor) -> Tensor:
    """Cut singular values down to a bound by matrix signs alone: 2 min(s, b) = b + s - |b - s|.

    With a polar factor by Newton–Schulz it needs matrix products only, so it suits a GPU in low precision; it is as
    exact as that polar factor is: five steps exceed the bound by about a tenth, eight by 1e-6 in float32.

    Args:
        matrices: Shape (..., m, n).
        bound: Largest singular value afterwards, above 0.
        polar: Gives the polar factors of a batch of matrices, square symmetric ones (their matrix sign) among them.
    """
    tall = _tall(matrices)
    factor = polar(tall)
    product = factor.mT @ tall
    margin = bound * torch.eye(tall.shape[-1], dtype=tall.dtype, device=tall.device) - (product + product.mT) / 2
    clipped = (bound * factor + tall - factor @ (margin @ polar(margin))) / 2
    return _as_given(clipped, matrices)


def normalized(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each matrix by its largest entry, before anything is squared, and keep what is not finite out of LAPACK.

    Returns:
        The matrices divided by their scale, zero where one holds a number that is not finite, and the scales, of shape
        (...): 1 for a zero matrix, NaN for one that is not finite, so that results multiplied by them are NaN.
    """
    scale = matrices.abs().amax(dim=(-2, -1))
    scale = torch.where(scale == 0, 1.0, scale + 0 * scale)
    return torch.where(scale.isnan()[..., None, None], 0.0, matrices / scale[..., None, None]), scale


def rounding_level(values: Tensor, rows: int) -> Tensor:
    """Below this, singular values of matrices with so many rows are rounding errors of a zero; shape (..., 1)."""
    return values.amax(dim=-1, keepdim=True) * rows * torch.finfo(values.dtype).eps


def _saturated_by_svd(matrices: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    left, values, right = decomposed(matrices, threshold)
    noise = rounding_level(values, matrices.shape[-2])
    level = threshold[:, None]
    factors = torch.where(level > 0, values / level.clamp(min=torch.finfo(values.dtype).tiny), 1.0).clamp(max=1)
    factors = torch.where(torch.maximum(values, level) > noise, factors, 0.0)
    return (left * factors[:, None, :]) @ right.mT, values.flip(-1)


def _tall(matrices: Tensor) -> Tensor:
    return matrices if matrices.shape[-2] >= matrices.shape[-1] else matrices.mT


def _as_given(tall: Tensor, matrices: Tensor) -> Tensor:
    return tall if tall.shape == matrices.shape else tall.mT


def _gram(matrices: Tensor) -> Tensor:
    return gram(matrices.mT)
