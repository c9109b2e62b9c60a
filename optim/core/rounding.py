"""How parameters of 16 bits take up steps computed in 32.

A step far below the distance of two neighbouring bfloat16 numbers is lost when it is rounded to the nearest. Kahan's
compensation keeps what was rounded away and adds it in the next step; stochastic rounding keeps it on average.
Both are discussed for training in arXiv 2010.06192.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Rounding = Literal["nearest", "kahan", "stochastic"]
LOW_PRECISION = (torch.bfloat16, torch.float16)


def check_rounding(rounding: str) -> None:
    """Refuse a name that is not one of the three.

    Raises:
        ValueError: naming the three.
    """
    if rounding not in get_args(Rounding):
        raise ValueError(f"rounding must be one of {', '.join(get_args(Rounding))}, not {rounding!r}")


def working_copy(parameter: Tensor, compensation: Tensor | None = None) -> Tensor:
    """A low-precision parameter in float32, with what earlier steps lost added back."""
    copy = parameter.detach().float()
    return copy if compensation is None else copy.add_(compensation)


def write_back(
    parameter: Tensor, exact: Tensor, compensation: Tensor | None = None, generator: torch.Generator | None = None
) -> None:
    """Round float32 values into a low-precision parameter.

    Args:
        parameter: Changed in place.
        exact: What it should be, float32.
        compensation: Changed in place to what is lost (Kahan); None to forget it.
        generator: Given, the values are rounded up or down at random, without bias, by its numbers (bfloat16 only).
    """
    if generator is not None:
        parameter.copy_(_stochastic(exact, generator))
        return
    parameter.copy_(exact)
    if compensation is not None:
        compensation.copy_(exact - parameter.float())


def _stochastic(exact: Tensor, generator: torch.Generator) -> Tensor:
    # bfloat16 is the upper half of float32: adding a uniform 16-bit number to the lower half carries over with exactly
    # the probability wanted, for either sign, since the bits after the sign are the magnitude.
    noise = torch.randint(0, 1 << 16, exact.shape, generator=generator, dtype=torch.int32, device=exact.device)
    bits = exact.contiguous().view(torch.int32)
    rounded = ((bits + noise) & ~0xFFFF).view(torch.float32)
    return torch.where(exact.isfinite(), rounded, exact)
