"""Sharpness-aware minimization around any optimizer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.optim.checks import check_number
from steepest.optim.classical.torch_optimizers import momentum
from steepest.optim.core.closure import needs_closure, repeatable
from steepest.optim.registry import OPTIMIZERS, OptimizerFactory


class SAM(Optimizer):
    """Steps of another optimizer with the gradient at w + e, where e = rho * g / |g| leads uphill.

    Every step evaluates the model twice: at w for the direction uphill, at w + e for the gradient that counts. The
    second evaluation leaves the buffers of the module, such as BatchNorm's running statistics, as the first left them;
    the weights come back from a copy, to the bit. Parameter groups and state are those of the other optimizer.

    Under DDP both gradients are means over all ranks, so the ranks stay equal; the direction is that of the whole
    batch, where the paper takes one for each rank's part.

    Args:
        base: The optimizer that takes the steps.
        module: The model, whose buffers are protected.
        rho: Length of e, at least 0.
        adaptive: Measure e relative to each weight (arXiv 2102.11600): e = rho * w^2 * g / | |w| * g |, which does not
            change when the weights of one layer are scaled up and those of the next down.

    Raises:
        ValueError: if rho is out of range, or the other optimizer needs a closure itself.
    """

    needs_closure: ClassVar[bool] = True

    def __init__(self, base: Optimizer, module: nn.Module, rho: float = 0.05, adaptive: bool = False) -> None:
        check_number("rho", rho)
        if needs_closure(base):
            raise ValueError(f"sam cannot wrap {type(base).__name__}: both evaluate the model in their steps")
        super().__init__([dict(group) for group in base.param_groups], base.defaults)
        self.base = base
        self.module = module
        self.rho = rho
        self.adaptive = adaptive
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Evaluate twice, then let the other optimizer take its step.

        Args:
            closure: Zeroes the gradients, evaluates the model, calls `backward` and returns the loss.

        Returns:
            What the closure returned at w.

        Raises:
            ValueError: if there is no closure, or a gradient is sparse.
        """
        evaluate = repeatable("sam", closure, self.param_groups[0]["params"][0].device)
        loss = evaluate()
        parameters = [
            parameter for group in self.param_groups for parameter in group["params"] if parameter.grad is not None
        ]
        if parameters:
            uphill = self._uphill(parameters)
            weights = [parameter.clone() for parameter in parameters]
            try:
                torch._foreach_add_(parameters, uphill)
                with _unchanged_buffers(self.module):
                    evaluate()
            finally:
                torch._foreach_copy_(parameters, weights)
        self.base.step()
        return loss

    def _uphill(self, parameters: list[Tensor]) -> list[Tensor]:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise ValueError("sam does not support sparse gradients: use sparse=False in the embedding")
        sizes = torch._foreach_abs(parameters) if self.adaptive else None
        scaled = gradients if sizes is None else torch._foreach_mul(gradients, sizes)
        norm = nn.utils.get_total_norm(scaled)
        length = torch.where(norm > 0, self.rho / norm, 0.0)  # no waiting for the device to look at the norm
        return list(torch._foreach_mul(scaled if sizes is None else torch._foreach_mul(scaled, sizes), length))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the other optimizer."""
        if "base" in self.__dict__:
            self.base.add_param_group(param_group)
        else:  # PyTorch's constructor hands over the groups that the other optimizer has
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The other optimizer's state: there is no more."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state of the other optimizer, saved with or without SAM around it."""
        self.base.load_state_dict(state_dict)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        own = {"base": self.base, "module": self.module, "rho": self.rho, "adaptive": self.adaptive}
        return {**super().__getstate__(), **own}


@contextmanager
def _unchanged_buffers(module: nn.Module) -> Iterator[None]:
    buffers = list(module.buffers())
    copies = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, copy in zip(buffers, copies, strict=True):
            buffer.copy_(copy)


@OPTIMIZERS.register
def sam(
    module: nn.Module,
    lr: float | None = None,
    rho: float = 0.05,
    adaptive: bool = False,
    base: OptimizerFactory | None = None,
) -> Optimizer:
    """SAM (arXiv 2010.01412): the gradient where the loss nearby is highest leads to flat minima; twice the time.

    Every step evaluates the batch twice, with the same dropout, so there is no gradient accumulation and no 16-mixed
    precision. BatchNorm's statistics count the first evaluation alone.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate of the base, at least 0; goes before the base's own. None takes the base's own.
        rho: Distance at which the gradient is taken, at least 0; the paper finds 0.05 good for many tasks. With
            `adaptive` it is relative, and about 10 times as much.
        adaptive: Measure the distance relative to each weight (arXiv 2102.11600).
        base: The optimizer that takes the steps, with options of its own: `--optimizer.base adamw
            --optimizer.base.weight_decay 0.1`, in Python `functools.partial(adamw, weight_decay=0.1)`. None takes
            `momentum`, as the paper does.

    Returns:
        A `SAM`.

    Raises:
        ValueError: if an option is out of range, the base takes no lr or needs a closure itself.
    """
    check_number("rho", rho)
    make = base or momentum
    if lr is None:
        return SAM(make(module), module, rho, adaptive)
    check_number("lr", lr)
    try:
        inner = make(module, lr=lr)  # type: ignore[call-arg]
    except TypeError as error:
        if "unexpected keyword argument 'lr'" not in str(error):
            raise
        raise ValueError("the base of sam takes no lr: leave sam's out and give it in the base's own options") from None
    return SAM(inner, module, rho, adaptive)
