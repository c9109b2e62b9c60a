"""Work shared by the ranks of a distributed run that all hold the same tensors."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

ALIGNMENT = 16  # bytes; where each result starts, so that it can be seen in any type


def ranks() -> int:
    """How many processes take part in this run; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def owners(costs: Sequence[float], count: int) -> list[int]:
    """Give each task to a rank: the longest first, always to the rank with the least to do.

    Args:
        costs: What each task costs, in any unit.
        count: Number of ranks.

    Returns:
        The rank of each task, the same on every rank.
    """
    loads = [0.0] * count
    owner = [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda task: -costs[task]):
        owner[task] = min(range(count), key=loads.__getitem__)
        loads[owner[task]] += costs[task]
    return owner


def map_over_ranks(
    function: Callable[[Tensor], Tensor], inputs: Sequence[Tensor], costs: Sequence[float], dtype: torch.dtype
) -> list[Tensor]:
    """Apply a function to tensors that every rank has; each rank does its share, and all receive all results.

    The results are exchanged as they are, bit for bit, and each is computed from one input alone, so they do not depend
    on the number of ranks. A rank receives the results of the others once: (N - 1) / N of their bytes.

    Args:
        function: Called with one input; returns a tensor of its shape and of type `dtype`.
        inputs: The same on all ranks; every rank must call at the same time, with as many of the same shapes.
        costs: What each one costs, in any unit.
        dtype: Type of the results.

    Returns:
        One result per input, on its device.
    """
    count = ranks()
    if count == 1 or not inputs:
        return [function(tensor) for tensor in inputs]
    owner, rank = owners(costs, count), dist.get_rank()
    sizes = [-(-tensor.numel() * dtype.itemsize // ALIGNMENT) * ALIGNMENT for tensor in inputs]
    starts, ends = [0] * len(inputs), [0] * count
    for task, of in enumerate(owner):
        starts[task], ends[of] = ends[of], ends[of] + sizes[task]

    # Equal buffers, as long as the longest: a single collective exchanges them. Every backend knows uint8.
    everything = torch.empty(count, max(ends), dtype=torch.uint8, device=inputs[0].device)

    def place(task: int) -> Tensor:
        part = everything[owner[task], starts[task] : starts[task] + inputs[task].numel() * dtype.itemsize]
        return part.view(dtype).view(inputs[task].shape)

    for task, tensor in enumerate(inputs):
        if owner[task] == rank:
            place(task).copy_(function(tensor))
    dist.all_gather_into_tensor(everything.view(-1), everything[rank].clone())
    return [place(task).to(tensor.device) for task, tensor in enumerate(inputs)]
