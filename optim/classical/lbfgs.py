"""L-BFGS through PyTorch's implementation."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.optim.checks import check_number
from steepest.optim.core.closure import mean_over_ranks, repeatable
from steepest.optim.core.grouping import parameter_groups
from steepest.optim.core.naming import keep_names, named_as_now
from steepest.optim.registry import OPTIMIZERS


class LBFGS(torch.optim.LBFGS):
    """`torch.optim.LBFGS` that may have lr 0, searches alike on all ranks, can be copied, and says what it needs."""

    needs_closure: ClassVar[bool] = True
    searches_line: ClassVar[bool] = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take up to `max_iter` iterations on one batch.

        Args:
            closure: Zeroes the gradients, evaluates the model, calls `backward` and returns the loss.

        Returns:
            The loss before the step, the mean over all ranks.

        Raises:
            ValueError: if there is no closure, or it returns no loss.
        """
        group = self.param_groups[0]
        evaluate = mean_over_ranks(repeatable("lbfgs", closure, group["params"][0].device))
        if group["lr"] == 0:  # a warm-up starts there; PyTorch's line search would divide by zero
            return evaluate()
        return super().step(evaluate)

    def _gather_flat_grad(self) -> Tensor:
        # PyTorch's own fails where gradients are not contiguous, as under channels_last.
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.param_groups[0]["params"]
        ]
        if any(gradient.is_sparse for gradient in gradients):
            raise ValueError("lbfgs does not support sparse gradients: use sparse=False in the embedding")
        return torch.cat([gradient.reshape(-1) for gradient in gradients])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # PyTorch's own loses these two when it is copied or pickled.
        self._params = self.param_groups[0]["params"]
        self._numel_cache = None


@OPTIMIZERS.register
def lbfgs(
    module: nn.Module,
    lr: float = 1.0,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    history_size: int = 10,
    line_search: Literal["strong_wolfe"] | None = "strong_wolfe",
) -> Optimizer:
    """L-BFGS (Liu and Nocedal 1989) with a strong-Wolfe line search: quasi-Newton steps from the last gradients.

    A step evaluates its batch many times, with the same dropout. It is made for full batches or very large ones: the
    first pair of every step compares gradients of two batches. BatchNorm's statistics count every evaluation. There is
    no weight decay, no gradient accumulation, no gradient clipping, and no 16-mixed precision. Under DDP the search
    uses the mean loss of all ranks.

    Args:
        module: The model; its trainable parameters are optimized, in one group.
        lr: First trial length of the line search, at least 0, or the step length without one. 1 is the Newton step.
        max_iter: Iterations per step, at least 1; each is a direction and a line search.
        max_eval: Evaluations per step, at least 1; None for 5/4 of `max_iter`.
        tolerance_grad: The step ends when no gradient entry is larger, at least 0.
        tolerance_change: The step ends when neither loss nor weights change by more, at least 0.
        history_size: Pairs of steps and gradient changes kept, at least 1; memory is twice that many copies of the
            weights. 10 is in the range of 3 to 20 that Nocedal and Wright advise.
        line_search: "strong_wolfe", or None for steps of fixed length lr.

    Returns:
        A `torch.optim.LBFGS`.

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    check_number("lr", lr)
    check_number("tolerance_grad", tolerance_grad)
    check_number("tolerance_change", tolerance_change)
    for name, count in (("max_iter", max_iter), ("max_eval", max_eval), ("history_size", history_size)):
        if count is not None:
            check_count(name, count)
    if line_search not in ("strong_wolfe", None):
        raise ValueError(f"line_search must be 'strong_wolfe' or None, not {line_search!r}")
    if any(parameter.is_complex() for parameter in module.parameters()):
        raise ValueError("lbfgs does not support complex parameters")
    optimizer = LBFGS(
        parameter_groups(module, 0.0),
        lr=lr,
        max_iter=max_iter,
        max_eval=max_eval,
        tolerance_grad=tolerance_grad,
        tolerance_change=tolerance_change,
        history_size=history_size,
        line_search_fn=line_search,
    )
    optimizer.register_load_state_dict_pre_hook(_check_same_vector)
    return keep_names(optimizer, module)


def check_count(name: str, value: int) -> None:
    """Refuse an option that is not a whole number of at least 1.

    Raises:
        ValueError: naming the option and its value.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, not {value!r}")


def _check_same_vector(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Refuse a state whose vectors, all parameters in a row, are of other parameters or another order."""
    own = optimizer.param_groups[0]
    saved, names = state_dict["param_groups"][0].get("param_names"), own.get("param_names")
    if saved is not None and names is not None and (saved := named_as_now([saved], [names])[0]) != names:
        if sorted(saved) == sorted(names):
            raise ValueError(
                "the saved L-BFGS state holds the parameters in another order: it belongs to another model"
            )
        return  # the check by name says which parameter is missing
    size = sum(parameter.numel() for parameter in own["params"])
    for entry in state_dict["state"].values():
        vector = entry.get("prev_flat_grad")
        if vector is not None and vector.numel() != size:
            raise ValueError(f"the saved L-BFGS state is of {vector.numel()} weights, the model has {size}")
