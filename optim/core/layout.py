"""Where the entries of a tensor lie in memory, for steps that care.

Fused kernels run through memory from the first entry on, and know no strides: weight, gradient and state have to lie
there alike, without gaps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_dense(tensor: Tensor) -> bool:
    """Whether the entries of a tensor fill its memory without gaps and overlaps, in any order of its axes."""
    if tensor.layout is not torch.strided:
        return False
    if tensor.numel() == 0:
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True


def shares_entries(tensor: Tensor) -> bool:
    """Whether entries of a tensor lie at one place in memory, as those of an expanded one do."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return False
    reach = 0  # of the axes so far, from the first entry to the last
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride == 0:
                return True
            if stride <= reach:
                # Windows that overlap, or axes that interleave without.
                places = torch.zeros(1, dtype=torch.int64)
                for own_stride, own_size in zip(tensor.stride(), tensor.shape, strict=True):
                    places = (places[:, None] + own_stride * torch.arange(own_size)).flatten()
                return len(places.unique()) < len(places)
            reach += stride * (size - 1)
    return False


def is_laid_out_as(weight: Tensor, tensor: Tensor) -> bool:
    """Whether the entries of a tensor of the weight's shape lie in memory as the weight's do."""
    own, other = weight.stride(), tensor.stride()
    # Strides of axes with one entry mean nothing, and autograd leaves them as they come.
    return own == other or all(size == 1 or a == b for size, a, b in zip(weight.shape, own, other, strict=True))


def in_layout_of(weights: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors with the strides of dense weights: themselves where they have them, copies where they do not.

    Raises:
        ValueError: if one differs and its weight has gaps in memory, where no copy could follow it.
    """
    return [
        tensor if is_laid_out_as(weight, tensor) else _laid_out(weight, tensor)
        for weight, tensor in zip(weights, tensors, strict=True)
    ]


def lay_out_state(state: dict[str, Any], weight: Tensor) -> None:
    """Bring the entries of a weight's state that have its shape into its layout, in place."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            (state[key],) = in_layout_of([weight], [value])


def _laid_out(weight: Tensor, tensor: Tensor) -> Tensor:
    if not is_dense(weight):
        raise ValueError(
            f"a parameter of shape {tuple(weight.shape)} has gaps in memory since the optimizer was made: use "
            "fused=False, or make it contiguous"
        )
    return torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)
