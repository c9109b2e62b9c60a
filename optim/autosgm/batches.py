"""Portions of a parameter list in which an update runs over all its operations before it goes on to the next.

An update rule of thirty operations over a whole model reads and writes the memory thirty times; over a portion that
fits the processor's cache, once. On an accelerator a portion keeps the temporary tensors small and the launches few.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from steepest.optim.autosgm.foreach import Scratch

# Elements: three quarters of a megabyte a tensor, a dozen of which fit a third-level cache, and so many that the
# overhead of an operation is small; of a few hundred megabytes.
CACHE_SIZE = 3 << 16
ACCELERATOR_SIZE = 1 << 23

State = dict[str, Tensor]


@dataclass
class Part:
    """Tensors, or slices of tensors, that are worked on together: lists of equal length.

    Attributes:
        weights: Changed in place.
        gradients: Their gradients.
        states: By name, the states with an entry per element.
        updates: Memory for what the weights will change by, if that must be kept until all parts were seen.
        scratch: Memory for other intermediate results; None to allocate them.
    """

    weights: list[Tensor]
    gradients: list[Tensor]
    states: dict[str, list[Tensor]]
    updates: list[Tensor] | None = None
    scratch: Scratch | None = None

    def room(self, name: str) -> list[Tensor] | None:
        """Memory for an intermediate result, which may be overwritten when the name is asked for again."""
        return None if self.scratch is None else [self.scratch.like(weight, name) for weight in self.weights]


def batches(weights: Sequence[Tensor]) -> Iterator[tuple[list[int], int | None]]:
    """Small tensors together, large ones alone and in slices.

    Args:
        weights: Tensors of any sizes.

    Yields:
        Indices of the tensors of a batch, and for a single large tensor the rows (of its first dimension) in a slice.
    """
    gathered, elements = [], 0
    for index, weight in enumerate(weights):
        limit = CACHE_SIZE if weight.device.type == "cpu" else ACCELERATOR_SIZE
        size = weight.numel()
        if size > limit:
            yield [index], max(1, limit * weight.shape[0] // size)
            continue
        if elements + size > limit:
            yield gathered, None
            gathered, elements = [], 0
        gathered.append(index)
        elements += size
    if gathered:
        yield gathered, None


def parts(
    weights: list[Tensor],
    gradients: list[Tensor],
    states: list[State],
    names: Sequence[str],
    rows: int | None,
    scratch: Scratch,
    keep_updates: bool,
) -> Iterator[Part]:
    """The slices of a batch: all of its tensors at once, or `rows` rows of the only one.

    Args:
        weights: The batch's tensors.
        gradients: Their gradients.
        states: Their states.
        names: The entries of the states that have an entry per element.
        rows: Rows in a slice; None for all.
        scratch: Memory for the slices of a tensor on a CPU.
        keep_updates: Whether the updates of all slices are needed at the same time.
    """
    if rows is None:
        yield Part(weights, gradients, {name: [state[name] for state in states] for name in names})
        return
    # Slices of the first dimension are right for every memory format, and views.
    tensors = [weights[0], gradients[0], *(states[0][name] for name in names)]
    on_cpu = weights[0].device.type == "cpu"
    if on_cpu and keep_updates:
        tensors.append(scratch.like(weights[0], "updates"))
    for weight, gradient, *entries in zip(*(tensor.split(rows) for tensor in tensors), strict=True):
        updates = [entries.pop()] if len(entries) > len(names) else None
        named = {name: [entry] for name, entry in zip(names, entries, strict=True)}
        yield Part([weight], [gradient], named, updates, scratch if on_cpu else None)
