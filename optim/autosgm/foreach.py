"""Operations on lists of tensors that PyTorch has in one pass for single tensors only.

On an accelerator one launch for the whole list counts; on a CPU, where PyTorch loops over the list anyway, the number
of passes over memory.
"""

import torch
from torch import Tensor

Tensors = list[Tensor]


def scaled_and_shifted(tensors: Tensors, scale: float, shift: float) -> Tensors:
    """New tensors: scale * tensor + shift."""
    if _on_cpu(tensors) and shift:
        start = tensors[0].new_full((), shift)
        return [torch.add(start, tensor, alpha=scale) for tensor in tensors]
    result = list(torch._foreach_mul(tensors, scale))
    if shift:
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
