"""Operations on lists of tensors, into memory that is there already.

On an accelerator one launch for the whole list counts, and its allocator keeps what is freed. On a CPU, where PyTorch
loops over the list anyway, new memory counts: the system clears each page of it when it is first touched, which takes
longer than the arithmetic.
"""

from typing import Any

import torch
from torch import Tensor

Tensors = list[Tensor]


class Scratch:
    """Memory for the intermediate results of a step on a CPU: taken once, used again for each slice and each tensor."""

    def __init__(self) -> None:
        self._buffers: dict[Any, Tensor] = {}
        self._views: dict[Any, Tensor] = {}

    def like(self, tensor: Tensor, name: str) -> Tensor:
        """Memory under a name in the shape and, where that is dense, the layout of a tensor; it holds anything."""
        buffer, size = self._buffers.get((name, tensor.dtype)), tensor.numel()
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name, tensor.dtype] = tensor.new_empty(size)
            self._views = {key: view for key, view in self._views.items() if key[:2] != (name, tensor.dtype)}
        key = (name, tensor.dtype, tensor.shape, tensor.stride())
        if key not in self._views:
            shape, stride = tensor.shape, tensor.stride()
            self._views[key] = buffer.as_strided(shape, stride) if is_dense(tensor) else buffer[:size].view(shape)
        return self._views[key]


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements of a tensor, which has some, lie without gaps in memory, in whatever order."""
    last = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride(), strict=True))
    return last + 1 == tensor.numel()


def into(
    out: Tensors | None, operation: str, *operands: Tensors, scalar: float | None = None, **options: Any
) -> Tensors:
    """An operation that PyTorch has for tensors and for lists of them.

    Args:
        out: Where the results go; None for new memory.
        operation: Its name: "lerp", "add", ...
        operands: Lists of tensors.
        scalar: A number to follow them.
        options: Passed on.
    """
    numbers = () if scalar is None else (scalar,)
    if out is None:
        return list(getattr(torch, f"_foreach_{operation}")(*operands, *numbers, **options))
    compute = getattr(torch, operation)
    return [compute(*members, *numbers, out=place, **options) for *members, place in zip(*operands, out, strict=True)]


def scaled_and_shifted(tensors: Tensors, scale: float, shift: float | Tensors, out: Tensors | None) -> Tensors:
    """A multiple plus a shift: one number for all tensors, or a tensor of one number for each."""
    if _on_cpu(tensors):
        # In one pass, where PyTorch has two for lists.
        shifts = shift if isinstance(shift, list) else [tensors[0].new_full((), shift)] * len(tensors)
        places = [None] * len(tensors) if out is None else out
        return [
            torch.add(start, tensor, alpha=scale, out=place)
            for tensor, start, place in zip(tensors, shifts, places, strict=True)
        ]
    result = list(torch._foreach_mul(tensors, scale))
    torch._foreach_add_(result, shift)
    return result


def clipped(tensors: Tensors, low: Tensors, high: Tensors) -> Tensors:
    """Tensors within bounds of their own shape; what is given may be overwritten."""
    if _on_cpu(tensors):
        return [torch.clamp(x, a, b, out=x) for x, a, b in zip(tensors, low, high, strict=True)]
    torch._foreach_maximum_(tensors, low)
    torch._foreach_minimum_(tensors, high)
    return tensors


def totals(tensors: Tensors) -> Tensors:
    """The sum of each of some non-negative tensors."""
    # There is no other reduction of lists; the 1-norm takes ten times as long as the sum on a CPU.
    return [tensor.sum() for tensor in tensors] if _on_cpu(tensors) else list(torch._foreach_norm(tensors, 1))


def _on_cpu(tensors: Tensors) -> bool:
    return tensors[0].device.type == "cpu"
