"""What all clippings share: which gradients are clipped together, their norm, and scaling them down."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from steepest.optim.checks import check_number

Groups = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Pool:
    """Parameters whose gradients are clipped together.

    Attributes:
        parameters: Those with a gradient, perhaps none.
        threshold: The group's own, which goes before the clipping's; None for none.
    """

    parameters: list[Tensor]
    threshold: float | None = None

    @property
    def gradients(self) -> list[Tensor]:
        """Dense gradients, to be changed in place; of a sparse gradient its values."""
        return [_dense(parameter) for parameter in self.parameters]


class Clipping(ABC):
    """Limits the gradients of an optimizer, in place, after unscaling and before its step.

    A parameter group's own "clip" goes before the clipping's threshold: a number makes it a pool of its own with that
    threshold, "none" leaves the group's gradients alone.

    Attributes:
        per_group: Clip each parameter group by itself instead of all together.
    """

    per_group: bool = False

    @torch.no_grad()
    def clip(self, groups: Groups) -> Tensor:
        """Clip the gradients of an optimizer's `param_groups`; costs no host synchronisation.

        Returns:
            Euclidean norm of all gradients before clipping, a scalar tensor on their device.

        Raises:
            ValueError: if a group's "clip" is neither a number above 0 nor "none".
        """
        clipped, others = pools(groups, self.per_group)
        norms = []
        for number, pool in enumerate(clipped):
            if pool.parameters:
                norms.append(total_norm(pool.gradients))
                self.clip_pool(number, pool, norms[-1])
        norms += [total_norm(others.gradients)] if others.parameters else []
        return total_norm(norms)

    @abstractmethod
    def clip_pool(self, number: int, pool: Pool, norm: Tensor) -> None:
        """Clip the gradients of one pool.

        Args:
            number: Number of the pool, the same at every step.
            pool: Has at least one gradient.
            norm: Euclidean norm of its gradients.
        """

    def state_dict(self) -> dict[Any, Any]:
        """What a resumed run needs: tensors and numbers."""
        return {}

    def load_state_dict(self, state: Mapping[Any, Any]) -> None:
        """Take up a saved state.

        Raises:
            ValueError: if it belongs to another clipping or to other options.
        """
        if state:
            raise ValueError(f"the saved state of the gradient clipping does not belong to a {type(self).__name__}")


def pools(groups: Groups, per_group: bool = False) -> tuple[list[Pool], Pool]:
    """The pools to clip, the shared one first if there is one, and what is to be left alone.

    Args:
        groups: An optimizer's `param_groups`.
        per_group: Make each group a pool of its own.

    Raises:
        ValueError: if a group's "clip" is neither a number above 0 nor "none".
    """
    shared: list[Tensor] = []
    others: list[Tensor] = []
    own: list[Pool] = []
    for group in groups:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        threshold = group.get("clip")
        if threshold == "none":
            others += parameters
        elif threshold is not None:
            check_threshold(threshold)
            own.append(Pool(parameters, threshold))
        elif per_group:
            own.append(Pool(parameters))
        else:
            shared += parameters
    return [*([] if per_group else [Pool(shared)]), *own], Pool(others)


def check_threshold(threshold: Any) -> None:
    """Refuse a group's "clip" that is neither a number above 0 nor "none"."""
    if threshold != "none":
        if isinstance(threshold, str):
            raise ValueError(f"clip of a parameter group must be a number above 0 or 'none', not {threshold!r}")
        check_number("clip of a parameter group", threshold, include_low=False)


def refuse_thresholds(groups: Groups) -> None:
    """Refuse groups with a threshold of their own where no clipping would read it.

    Raises:
        ValueError: naming the threshold.
    """
    for group in groups:
        if group.get("clip") not in (None, "none"):
            raise ValueError(
                f"a parameter group has the threshold clip={group['clip']!r}, but no clipping is chosen that uses it: "
                "choose with --clipping NAME"
            )


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all entries of all tensors, at least in float32; 0 for no tensors."""
    if not tensors:
        return torch.zeros(())
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    norms = torch._foreach_norm(list(tensors), 2, dtype)
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


def limit_norm(gradients: Sequence[Tensor], norm: Tensor, threshold: float | Tensor) -> None:
    """Scale gradients of Euclidean norm `norm` down to the threshold, in place, as PyTorch's `clip_grad_norm_` does."""
    scale = (threshold / (norm + 1e-6)).clamp(max=1.0)
    for same_device in _by_device(gradients):
        torch._foreach_mul_(same_device, scale.to(same_device[0].device))


def _by_device(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device, []).append(tensor)
    return list(found.values())


def _dense(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_sparse:
        return gradient
    if not gradient.is_coalesced():  # rows that stand in it twice have no norm yet
        gradient = parameter.grad = gradient.coalesce()
    return gradient._values()
