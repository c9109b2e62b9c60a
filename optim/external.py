"""Any other optimizer class, by import path."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from optim.checks import check_number
from optim.foreign import keep_gradients
from optim.grouping import parameter_groups
from optim.naming import keep_names
from optim.registry import OPTIMIZERS


@OPTIMIZERS.register
def external(
    module: nn.Module,
    algorithm: Callable[[Iterable[Any]], Optimizer],
    matrix_weight_decay: float | None = None,
) -> Optimizer:
    """Any `torch.optim.Optimizer` subclass, from PyTorch, another package or your own file.

    Steps of classes other than PyTorch's work on copies of the gradients, since many of them change or drop `p.grad`.

    Args:
        module: The model; its trainable parameters are optimized.
        algorithm: What makes the optimizer from the parameters. In YAML `class_path: torch.optim.NAdam` with
            `init_args: {lr: 0.002}`, in Python `functools.partial(torch.optim.NAdam, lr=2e-3)`.
        matrix_weight_decay: Weight decay of matrices, embeddings and the output layer, at least 0; biases and
            normalization get none. None leaves decay to the algorithm, which applies its own to all parameters.

    Returns:
        The optimizer that `algorithm` makes.

    Raises:
        ValueError: if nothing is trainable, `algorithm` makes something else, or it has no `weight_decay`.
    """
    if matrix_weight_decay is not None:
        check_number("matrix_weight_decay", matrix_weight_decay)
    groups = parameter_groups(module, matrix_weight_decay or 0.0)
    if matrix_weight_decay is None:
        del groups[0]["weight_decay"]
    optimizer = algorithm(groups)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"algorithm must make a torch.optim.Optimizer, not a {type(optimizer).__name__}")
    if matrix_weight_decay is not None and "weight_decay" not in optimizer.defaults:
        raise ValueError(f"{type(optimizer).__name__} has no weight_decay: leave matrix_weight_decay out")
    if not type(optimizer).__module__.startswith("torch."):
        keep_gradients(optimizer)
    switch = getattr(optimizer, "train", None)
    if callable(switch):
        switch()  # schedule-free optimizers refuse to step in the mode for evaluation
    return keep_names(optimizer, module)
