"""AutoSGM's forms side by side, for the tests of the compiled one."""

from typing import Any

import torch
from torch import Tensor

from steepest.optim import AutoSGM
from tests.optim.autosgm.problem import SHAPES, tensors, train

WINDOW = (1, 0, 0.1, 2, 1, 2, 100, 1, 0.1)
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-6}
# Also the step without a denominator.
NUMERATORS = [*((True, 0.02, number) for number in range(5)), (False, 0.02, 0)]


def configuration(**changes: Any) -> dict[str, Any]:
    return {"lr_cfg": NUMERATORS[3], "beta_cfg": (0.95, 0.99, 0.9, 0.4, 0, True), "rc_cfg": WINDOW, **changes}


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    """Equal up to rounding, in comparison with the length of a tensor: single entries may be close to zero."""
    for ours, theirs in zip(found, expected, strict=True):
        assert not torch.equal(ours, torch.zeros_like(ours))
        assert torch.linalg.vector_norm(ours - theirs) <= LIMITS[ours.dtype] * torch.linalg.vector_norm(theirs)


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def trained(dtype: torch.dtype, steps: int, compiled: bool, shapes: Any = SHAPES, **options: Any) -> list[Tensor]:
    weights = tensors(shapes, dtype, zeros=True)
    train(AutoSGM(weights, compiled=compiled, **options), weights, steps)
    return [weight.detach() for weight in weights]
