"""Norms of many matrices at once, cheap enough to follow them during training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.gradient_flow import norms
from diagnostics.spectral import COLD_STEPS, golub_kahan, matrix_operator, random_start, singular_values

EXACT_UP_TO = 64  # shorter side up to which all singular values cost no more than a few products
RENEW_STEPS = 24  # at exact measurements: what follows starts within 1e-3 even if the largest values lie close together
LARGEST_STACK = 2**26  # entries of matrices handled at once on a GPU


@dataclass(frozen=True)
class MatrixNorms:
    """Singular values of a set of matrices, still on the device.

    Attributes:
        values: Shape (4, matrices): Frobenius norm, largest and smallest singular value, and what the fast method took
            for the largest (if it was checked); NaN where not computed.
        vectors: Right singular vectors of the fast method, to start the next measurement from, by name.
        spectra: All singular values, descending, where they were computed, by name.
    """

    values: Tensor
    vectors: dict[str, Tensor]
    spectra: dict[str, Tensor]


def matrix_norms(
    named: Mapping[str, Tensor], starts: Mapping[str, Tensor], exact: bool, warm_steps: int
) -> MatrixNorms:
    """Norms of matrices: exact if the shorter side is at most 64, else by a few products with the matrix.

    Args:
        named: Matrices by name; dimensions after the second are flattened into it. A matrix with a NaN or an infinite
            entry gets NaN.
        starts: `vectors` of the last measurement, or empty.
        exact: Compute all singular values of the large matrices as well.
        warm_steps: Products with a large matrix, and with its transpose, when there is a start; 8 when there is none.

    Returns:
        What was found, in the order of `named`; nothing is transferred to the host but which norms are finite.
    """
    names, flat = list(named), [_as_float(matrix.detach().flatten(1)) for matrix in named.values()]
    frobenius = norms(flat)
    values = torch.full((4, len(flat)), torch.nan, dtype=frobenius.dtype, device=frobenius.device)
    values[0] = frobenius
    vectors: dict[str, Tensor] = {}
    spectra: dict[str, Tensor] = {}
    # An eigenvalue solver fails on a NaN, and would take all other matrices down with it.
    finite = torch.isfinite(frobenius).tolist()
    for group in _groups([index for index, good in enumerate(finite) if good], flat):
        stack = torch.stack([flat[index] for index in group]) if len(group) > 1 else flat[group[0]][None]
        small = min(stack.shape[1:]) <= EXACT_UP_TO
        if not small:
            largest = _search(stack, [names[index] for index in group], starts, vectors, exact, warm_steps)
            values[3 if exact else 1, group] = largest.to(values)
        if small or exact:
            found = singular_values(stack)
            values[1, group], values[2, group] = found[:, 0].to(values), found[:, -1].to(values)
            spectra.update({names[index]: row for index, row in zip(group, found, strict=True)})
    return MatrixNorms(values, vectors, spectra)


def _search(
    stack: Tensor,
    names: Sequence[str],
    starts: Mapping[str, Tensor],
    vectors: dict[str, Tensor],
    renew: bool,
    warm_steps: int,
) -> Tensor:
    fresh = torch.stack([random_start(name, stack.shape[2], stack[0]) for name in names])
    warm = all(name in starts and starts[name].shape == stack.shape[2:] for name in names)
    start = torch.stack([starts[name].to(stack) for name in names]) if warm else fresh
    found = golub_kahan(matrix_operator(stack), start, min(warm_steps if warm else COLD_STEPS, *stack.shape[1:]))
    vector = found.vectors
    if renew:
        # A singular value that has overtaken the one being followed is found from a start that is not blind to it.
        fresh = fresh / torch.linalg.vector_norm(fresh, dim=1, keepdim=True)
        vector = golub_kahan(matrix_operator(stack), vector + 0.3 * fresh, min(RENEW_STEPS, *stack.shape[1:])).vectors
    vectors.update(zip(names, vector, strict=True))
    return found.norms


def _groups(indices: list[int], flat: Sequence[Tensor]) -> list[list[int]]:
    # Measured: stacking equal shapes pays on a GPU, and costs a copy for nothing on a CPU.
    groups: list[list[int]] = []
    by_shape: dict[tuple, list[int]] = {}
    for index in indices:
        matrix = flat[index]
        group = by_shape.get((matrix.shape, matrix.device)) if matrix.device.type == "cuda" else None
        if group is None or (len(group) + 1) * matrix.numel() > LARGEST_STACK:
            group = by_shape[(matrix.shape, matrix.device)] = []
            groups.append(group)
        group.append(index)
    return groups


def _as_float(matrix: Tensor) -> Tensor:
    return matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()
