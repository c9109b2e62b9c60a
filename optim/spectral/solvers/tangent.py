"""Directions that keep the columns of a matrix orthonormal: W^T D + D^T W = 0, tangent to the Stiefel manifold at W."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.optim.spectral.solvers.clip import normalized, polar_factor


@dataclass(frozen=True)
class TangentSpace:
    """The matrices D with W^T D + D^T W = 0, and the normal ones, W S with S symmetric, for any tall W.

    With W = P diag(w) V^T, a normal matrix is P T V^T where T_ij = w_i R_ij, R symmetric: its coordinates T have the
    same Frobenius norm, and projecting onto them needs no division by a small w_i, however badly W is conditioned.

    Attributes:
        left: P, shape (batch, m, n).
        right: V, shape (batch, n, n).
        values: w, shape (batch, n), for the largest entry of W scaled to 1.
    """

    left: Tensor
    right: Tensor
    values: Tensor

    @classmethod
    def at(cls, weight: Tensor) -> "TangentSpace":
        """The tangent space at each matrix of a batch of shape (batch, m, n), m >= n.

        Eigenvectors of W^T W in float64 suffice for float32; float64 takes the singular value decomposition.
        """
        scaled, _ = normalized(weight)
        if weight.dtype == torch.float64:
            left, values, right = torch.linalg.svd(scaled, full_matrices=False)
            return cls(left, right.mT, values)
        double = scaled.double()
        eigenvalues, right = torch.linalg.eigh(double.mT @ double)
        # Directions in which W is zero to float32 constrain nothing that float32 could see.
        seen = eigenvalues > torch.finfo(torch.float32).eps ** 2 * eigenvalues[:, -1:]
        values = torch.where(seen, eigenvalues, 0.0).sqrt()
        left = double @ right * torch.where(seen, values, torch.inf).reciprocal()[:, None, :]
        return cls(left.to(weight.dtype), right.to(weight.dtype), values.to(weight.dtype))

    def coordinates(self, matrices: Tensor) -> Tensor:
        """Coordinates (batch, n, n) of the normal parts of matrices (batch, m, n)."""
        rotated = self.left.mT @ matrices @ self.right
        return (self.values[:, :, None] * self._symmetric(rotated)).contiguous()

    def normal(self, coordinates: Tensor) -> Tensor:
        """The normal matrices that have these coordinates."""
        return self.left @ (coordinates @ self.right.mT)

    def project(self, matrices: Tensor) -> Tensor:
        """Tangent parts: the nearest tangent matrices."""
        return matrices - self.normal(self.coordinates(matrices))

    def multiplier(self, coordinates: Tensor) -> Tensor:
        """The symmetric L with 2 W L the normal matrix that has these coordinates, for the scaled W."""
        return self.right @ self._symmetric(coordinates) @ self.right.mT / 2

    def from_multiplier(self, multiplier: Tensor) -> Tensor:
        """Coordinates of the normal matrices 2 W L."""
        rotated = self.right.mT @ multiplier @ self.right
        return self.values[:, :, None] * (rotated + rotated.mT)

    def select(self, keep: Tensor) -> "TangentSpace":
        """The tangent spaces of some members of the batch."""
        return TangentSpace(self.left[keep], self.right[keep], self.values[keep])

    def _symmetric(self, rotated: Tensor) -> Tensor:
        """Solve the least-squares problem diag(w) R = rotated over symmetric R; 0 where W constrains nothing."""
        weighted = self.values[:, :, None] * rotated
        squares = self.values.square()
        total = squares[:, :, None] + squares[:, None, :]
        return torch.where(total > 0, (weighted + weighted.mT) / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)


def tangent_projection(matrices: Tensor, weight: Tensor) -> Tensor:
    """Project onto the tangent space at W: W^T D + D^T W = 0, or W D^T + D W^T = 0 if W is wide.

    Args:
        matrices: Shape (batch, m, n).
        weight: Where, of the same shape; its columns (or rows) need not be orthonormal. NaN where it is not finite.
    """
    if weight.shape[-2] < weight.shape[-1]:
        return tangent_projection(matrices.mT, weight.mT).mT
    return TangentSpace.at(weight).project(matrices) + 0 * normalized(weight)[1][:, None, None]


def tangency_violation(matrices: Tensor, weight: Tensor) -> Tensor:
    """Distance from tangent, |W^T D + D^T W| / (2 |W| |D|) in Frobenius norms, in [0, 1]; shape (batch,)."""
    if weight.shape[-2] < weight.shape[-1]:
        return tangency_violation(matrices.mT, weight.mT)
    (matrices, _), (weight, _) = normalized(matrices), normalized(weight)
    product = weight.mT @ matrices
    size = 2 * torch.linalg.matrix_norm(weight) * torch.linalg.matrix_norm(matrices)
    return torch.linalg.matrix_norm(product + product.mT) / size.clamp(min=torch.finfo(size.dtype).tiny)


def retract(weight: Tensor) -> Tensor:
    """Bring matrices (..., m, n) back to orthonormal columns (or rows): their polar factors, the nearest such ones."""
    return polar_factor(weight)
