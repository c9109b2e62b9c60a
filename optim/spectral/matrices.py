"""Parameters seen as matrices: what Muon and the spectral solvers work on."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steepest.optim.core.roles import ParameterRole

# On a CPU, Gram matrices are computed in blocks of at least so many rows: smaller products run at less than full speed.
BLOCK_ROWS = 128
SMALLEST_SIDE = 4  # scaling by element suits a matrix with a shorter side better


def as_matrices(tensor: Tensor, split: int = 1) -> Tensor:
    """A weight as a batch of matrices whose rows are outputs.

    Args:
        tensor: Two dimensions or more; those of a convolution's kernel are flattened, (out, in, height, width) to
            out x (in height width).
        split: Number of matrices that are stacked in the rows: 3 for query, key and value in one weight.

    Returns:
        Shape (split, rows / split, columns): a view where the memory allows it.
    """
    return tensor.reshape(split, tensor.shape[0] // split, -1)


def from_matrices(matrices: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_matrices`: `matrices` in the shape of the weight `like`."""
    return matrices.reshape(like.shape)


def matrix_shape(shape: torch.Size, split: int = 1) -> tuple[int, int]:
    """Rows and columns of each matrix of a weight."""
    return shape[0] // split, shape[1:].numel()


def gram(wide: Tensor) -> Tensor:
    """X X^T; on a CPU only the blocks on and below the diagonal are computed, which spares up to half of the work.

    Args:
        wide: Shape (m, n), or with leading dimensions.
    """
    rows = wide.shape[-2]
    blocks = rows // BLOCK_ROWS
    if wide.device.type != "cpu" or blocks < 2:
        return wide @ wide.mT
    if wide.ndim > 2:
        return torch.stack([gram(matrix) for matrix in wide])
    product = wide.new_empty(rows, rows)
    for block in range(blocks):
        start, end = block * rows // blocks, (block + 1) * rows // blocks
        product[start:end, :end] = wide[start:end] @ wide[:end].mT
        product[:start, start:end] = product[start:end, :start].mT
    return product


def check_matrices(group: Mapping[str, Any]) -> None:
    """Refuse a parameter group with a member that is not a stack of `group["split"]` matrices.

    Raises:
        ValueError: naming the parameter's shape and what to do.
    """
    split = group.get("split", 1)
    if isinstance(split, bool) or not isinstance(split, int) or split < 1:
        raise ValueError(f"split must be a whole number, at least 1, not {split!r}")
    for parameter in group["params"]:
        if parameter.ndim < 2 or parameter.numel() == 0:
            raise ValueError(
                f"{group['algorithm']} does not support a parameter of shape {tuple(parameter.shape)}, which is "
                "not a matrix: put it into a group of algorithm adamw or sgd"
            )
        if parameter.shape[0] % split:
            raise ValueError(f"split {split} does not divide the {parameter.shape[0]} rows of a parameter")


def batches(matrices: Sequence[Tensor], elements: int) -> list[list[int]]:
    """Which matrices to handle together: equal ones, in order, as many as fit.

    Args:
        matrices: Each (m, n).
        elements: Largest number of elements of one batch; a matrix with more of them stays alone, and so do all with 0.

    Returns:
        Indices by batch, each exactly once. The order of the input alone decides, never the number of processes.
    """
    found: list[list[int]] = []
    open_batches: dict[Any, list[int]] = {}
    for index, matrix in enumerate(matrices):
        kind = (matrix.shape, matrix.dtype, matrix.device)
        batch = open_batches.get(kind)
        if batch is None or (len(batch) + 1) * matrix.numel() > elements:
            batch = open_batches[kind] = []
            found.append(batch)
        batch.append(index)
    return found


def matrix_or_fallback(role: ParameterRole, algorithm: str, fallback: str) -> tuple[str, str]:
    """Route a parameter: hidden matrices to an algorithm for them, everything else to its fallback.

    Returns:
        Name of the algorithm, and the reason for people.
    """
    if role.role not in ("matrix", "input"):
        return fallback, f"{fallback}: {algorithm} is for hidden matrices"
    shape = role.parameter.shape
    if role.role == "input" and len(shape) > 2:
        return fallback, f"{fallback}: filters of the first convolution see pixels, not features"
    if len(shape) > 2 and shape[1] == 1:
        return fallback, f"{fallback}: a depth-wise kernel has one input channel, so its rows do not mix features"
    rows, columns = matrix_shape(shape, role.split)
    if min(rows, columns) < SMALLEST_SIDE:
        return fallback, f"{fallback}: {rows} x {columns} has a side below {SMALLEST_SIDE}"
    stacked = f"{role.split} times " if role.split > 1 else ""
    return algorithm, f"{stacked}{rows} x {columns}"


def check_some_matrix(module: nn.Module, groups: Sequence[dict[str, Any]], algorithm: str, fallback: str) -> None:
    """Refuse a model of which an algorithm for matrices would get nothing.

    Raises:
        ValueError: saying what to do.
    """
    if not any(group["algorithm"] == algorithm for group in groups):
        raise ValueError(
            f"{type(module).__name__} has no hidden matrix for {algorithm}: use optimizer {fallback}, or route a "
            f"parameter with a rule such as {{name: '*.weight', ndim: 2, algorithm: {algorithm}}}"
        )
