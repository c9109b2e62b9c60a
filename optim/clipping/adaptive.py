"""Adaptive gradient clipping: the threshold of each unit is a part of its weights' norm."""

from collections.abc import Collection, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from steepest.optim.checks import check_number
from steepest.optim.clipping.base import Clipping, Pool
from steepest.optim.core.roles import Role, parameter_roles
from steepest.optim.registry import CLIPPINGS


@CLIPPINGS.register
def agc(
    module: nn.Module, clip_factor: float = 0.01, eps: float = 1e-3, exclude: Sequence[Role] = ("head",)
) -> Clipping:
    """Limit the gradient of each unit to a part of its weights' norm (adaptive gradient clipping, arXiv 2102.06171).

    A unit is a row of a matrix or table, a filter of a convolution, and a whole vector of gains or biases: the entries
    that share the first index, or all of them where there is one index.

    Args:
        module: The model, for the roles of its parameters.
        clip_factor: Largest ratio of a unit's gradient norm to its weight norm, above 0. The paper takes 0.01 for
            batches of 4096 images, more for smaller ones. A parameter group's own "clip" goes before it.
        eps: Smallest weight norm that is counted with, above 0, so that zeros can move.
        exclude: Roles of parameters that are left alone: as in the paper the weight of the output layer.

    Returns:
        The clipping.

    Raises:
        ValueError: if an option is out of range, nothing is trainable or a gradient is sparse.
    """
    check_number("clip_factor", clip_factor, include_low=False)
    check_number("eps", eps, include_low=False)
    for role in exclude:
        if role not in get_args(Role):
            raise ValueError(f"exclude must name roles out of {', '.join(get_args(Role))}, not {role!r}")
    excluded = {role.parameter for role in parameter_roles(module) if role.role in exclude}
    return AdaptiveClipping(clip_factor, eps, excluded)


class AdaptiveClipping(Clipping):
    """See `agc`."""

    def __init__(self, clip_factor: float, eps: float, excluded: Collection[Tensor]) -> None:
        self.clip_factor = clip_factor
        self.eps = eps
        self.excluded = excluded

    def clip_pool(self, number: int, pool: Pool, norm: Tensor) -> None:
        """Scale the gradient of every unit."""
        parameters = [parameter for parameter in pool.parameters if parameter not in self.excluded]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise ValueError("agc does not support sparse gradients: use sparse=False in the embedding")
        if gradients:
            factor = self.clip_factor if pool.threshold is None else pool.threshold
            limit_units(parameters, gradients, factor, self.eps)


@torch.no_grad()
def limit_units(weights: Sequence[Tensor], gradients: Sequence[Tensor], factor: float, eps: float) -> None:
    """Scale each unit's gradient down to `factor` times its weight norm or `eps`, whichever is larger, in place."""
    limits = [unit_norms(weight) for weight in weights]
    torch._foreach_clamp_min_(limits, eps)
    torch._foreach_mul_(limits, factor)
    norms = [unit_norms(gradient) for gradient in gradients]
    # A gradient of 0 stays 0 whatever it is multiplied by.
    torch._foreach_clamp_min_(norms, torch.finfo(torch.float32).tiny)
    torch._foreach_div_(limits, norms)
    torch._foreach_clamp_max_(limits, 1.0)
    torch._foreach_mul_(list(gradients), limits)


def unit_norms(tensor: Tensor) -> Tensor:
    """Euclidean norm of every unit, at least in float32, in a shape that multiplies the tensor."""
    dimensions = tuple(range(1, tensor.ndim)) if tensor.ndim > 1 else None
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return torch.linalg.vector_norm(tensor, dim=dimensions, keepdim=tensor.ndim > 1, dtype=dtype)
