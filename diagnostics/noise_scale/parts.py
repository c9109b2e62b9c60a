"""Gradients of parts of a batch, for the noise scale: of parts cut on purpose, or of a run's own backward passes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steepest.diagnostics.common.batches import batch_size
from steepest.diagnostics.gradient_flow.flow import norms


def gradients_of_parts(
    losses: Sequence[Callable[[], Tensor]], parameters: Sequence[nn.Parameter]
) -> tuple[Tensor, list[Tensor]]:
    """Squared norm of the gradient of each loss, and the sum of these gradients; `.grad` is not touched.

    Args:
        losses: Each computes the mean loss over one part of the samples.
        parameters: What to differentiate by; a parameter that a loss does not use counts as having a gradient of zero.

    Returns:
        Squared norms of shape (losses,), and one tensor for each parameter.
    """
    squares = []
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for loss in losses:
        gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        used = [index for index, gradient in enumerate(gradients) if gradient is not None]
        present = [_dense(gradient) for gradient in gradients if gradient is not None]
        torch._foreach_add_([total[index] for index in used], present)
        squares.append(square_norm(present))
    return torch.stack(squares), total


def square_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Squared norm of all tensors taken as one vector; a number on the device of the first."""
    return norms([_entries(tensor) for tensor in tensors]).square().sum()


class PartRecorder:
    """Squared norms of the gradients of backward passes as they arrive, before anything is done to them.

    Hooks on the parameters see a rank's own gradient before DistributedDataParallel averages it, and a micro-batch's
    before it is added to the others. No further pass is needed.

    Args:
        parameters: The parameters whose gradients count.

    Attributes:
        squares: Squared norm of each part so far, on the device.
        sizes: Its number of samples.
        divided: Whether a parameter's gradient came in several pieces during one backward pass, so that the norms are
            wrong (reentrant activation checkpoints that share a parameter do that).
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.squares: list[Tensor] = []
        self.sizes: list[int] = []
        self.divided = False
        self._norms: dict[int, Tensor] = {}
        self._handles = [
            parameter.register_hook(self._hook(index))
            for index, parameter in enumerate(parameters)
            if parameter.requires_grad
        ]

    def _hook(self, index: int) -> Callable[[Tensor], None]:
        def note(gradient: Tensor) -> None:
            self.divided |= index in self._norms
            # The norm only: a second reference to the gradient would cost autograd a copy of it.
            self._norms[index] = norms([_entries(gradient.detach())])

        return note

    def end_part(self, size: int) -> None:
        """Close a part after its backward pass.

        Args:
            size: Number of its samples.
        """
        found = list(self._norms.values())
        self._norms = {}
        if found:
            device = found[0].device
            self.squares.append(torch.cat([norm.to(device) for norm in found]).square().sum())
            self.sizes.append(size)

    def remove(self) -> None:
        """Take the hooks off the parameters."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def equal_parts(batch: Any, parts: int) -> list[Any]:
    """A batch cut into parts of the same number of samples; what is left over is dropped.

    Args:
        batch: As `steepest.diagnostics.common.batches.first_samples` takes it.
        parts: Number of parts, at least 1.

    Raises:
        ValueError: if the batch has no known size or fewer samples than parts.
    """
    size = batch_size(batch)
    if size is None or size < parts:
        raise ValueError(f"a batch of {'unknown' if size is None else size} samples cannot be cut into {parts} parts")
    share = size // parts
    return [_cut(batch, size, slice(part * share, (part + 1) * share)) for part in range(parts)]


def _cut(batch: Any, size: int, part: slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[part] if batch.ndim > 0 and batch.shape[0] == size else batch
    if isinstance(batch, Mapping):
        return {key: _cut(value, size, part) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        items = [_cut(item, size, part) for item in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch


def _entries(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient
