"""The outputs of a network from which its loss is computed, found from outside."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.guards import hooks_removed

AGREEMENT = 1e-3  # relative: rounding errors of a backward pass in float32 are 1e-6, of tensor cores 1e-4


def network_outputs(
    network: nn.Module,
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    unavailable: Callable[[str], Exception] = RuntimeError,
) -> tuple[Tensor, Tensor]:
    """The tensor that the loss is computed from, and the loss, in one graph.

    It is what the network's own `forward` returned while the loss was computed, or else what the last called of its
    children did. That the parameters act on the loss through this tensor alone is checked by the gradient.

    Args:
        network: The network, or the module around it that computes the loss.
        loss: Calls the network and computes a loss, a scalar.
        parameters: The parameters whose way to the loss is checked.
        unavailable: Makes the error from a message.

    Raises:
        RuntimeError: (or what `unavailable` makes) if there is no such tensor.
    """
    seen: dict[bool, Tensor] = {}  # by whether it is the network's own output

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim > 0 and output.requires_grad:
            seen[module is network] = output

    with hooks_removed([module.register_forward_hook(keep) for module in (network, *network.children())]):
        value = loss()
    outputs = seen.get(True, seen.get(False))
    name = type(network).__name__
    if outputs is None or outputs is value:
        raise unavailable(
            f"the Gauss-Newton matrix needs the outputs of {name} as one tensor, and neither its forward nor a child's "
            "returned one: use matrix='hessian'"
        )
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
    slopes = torch.autograd.grad(value, outputs, retain_graph=True, materialize_grads=True)
    through = torch.autograd.grad(outputs, parameters, slopes, retain_graph=True, materialize_grads=True)
    missing = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(torch._foreach_sub(gradients, through))))
    total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if missing > AGREEMENT * total:
        raise unavailable(
            f"the loss of {name} does not depend on the parameters through its outputs alone (penalties, several calls "
            "or several outputs), so it has no Gauss-Newton matrix: use matrix='hessian'"
        )
    return outputs, value
