"""Optimizers that evaluate the model several times in a step, by calling the closure they are given."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.optim import Optimizer

Closure = Callable[[], Any]


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether `step` cannot do without a closure: its `needs_closure` is True, or it is PyTorch's L-BFGS."""
    return bool(getattr(optimizer, "needs_closure", False)) or isinstance(optimizer, torch.optim.LBFGS)


def searches_line(optimizer: Optimizer) -> bool:
    """Whether `step` compares losses along a line, which gradients changed by clipping would contradict."""
    return bool(getattr(optimizer, "searches_line", False)) or isinstance(optimizer, torch.optim.LBFGS)


def repeatable(name: str, closure: Closure | None, device: torch.device) -> Closure:
    """The closure with gradients enabled and the same random numbers at every call: one function, dropout included.

    Args:
        name: Of the optimizer, for the message.
        closure: What `step` was given: zeroes the gradients, evaluates the model, calls `backward`, returns the loss.
        device: Where the model is; PyTorch's generators of the CPU and of this device, if it is a GPU, are rewound.

    Raises:
        ValueError: if there is no closure.
    """
    if closure is None:
        raise ValueError(
            f"{name} evaluates the model several times in a step: call step(closure); under 16-mixed there is no "
            "closure, use bf16-mixed or 32-true"
        )
    on_gpu = device.type == "cuda"
    state, gpu_state = torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None

    def evaluate() -> Any:
        torch.set_rng_state(state)
        if gpu_state is not None:
            torch.cuda.set_rng_state(gpu_state, device)
        with torch.enable_grad():
            return closure()

    return evaluate


def mean_over_ranks(closure: Closure) -> Closure:
    """A closure whose loss is the mean over all ranks, as DDP's gradients are; without ranks the same loss.

    Ranks that compare their own losses along a line would take different steps.
    """

    def evaluate() -> Any:
        loss = closure()
        if loss is None:
            raise ValueError("the closure returned no loss: a line search needs it")
        loss = loss.detach() if isinstance(loss, Tensor) else loss
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            mean = loss.clone() if isinstance(loss, Tensor) else torch.tensor(float(loss))
            distributed.all_reduce(mean)
            return mean / distributed.get_world_size()
        return loss

    return evaluate
