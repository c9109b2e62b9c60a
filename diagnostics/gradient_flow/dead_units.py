"""Units of ReLU layers that are zero on every sample of a batch."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from steepest.common.parameter_names import module_names
from steepest.diagnostics.common.guards import hooks_removed

# After these the units lie along the last dimension, whatever the number of dimensions; otherwise along the second.
_UNITS_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)
_UNITS_SECOND = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_RELUS = (nn.ReLU, nn.ReLU6)


def dead_relu_units(module: nn.Module, forward: Callable[[], object]) -> dict[str, Tensor]:
    """Which units of each ReLU are zero on every sample, and every position, of one forward pass.

    Seen are `nn.ReLU` and `nn.ReLU6` modules (their zeros pass no gradient; leaky and smooth activations never die).
    A call of `torch.relu` or `torch.nn.functional.relu` is invisible to hooks and cannot be counted. A unit is a
    channel after a convolution, a feature after a linear layer.

    Args:
        module: The network, or anything that holds it.
        forward: Runs one forward pass; wrap it in `steepest.diagnostics.common.guards.undisturbed` and `torch.no_grad`.

    Returns:
        For each ReLU module a boolean tensor of shape (units,), True where dead, by the module's name; further calls
        of the same module are named "name#2", "name#3" and so on. Empty if there is no ReLU module.
    """
    flags: dict[str, Tensor] = {}
    units_last = False

    def note_layout(layer: nn.Module, _inputs: object, _output: object) -> None:
        nonlocal units_last
        units_last = isinstance(layer, _UNITS_LAST)

    def note_zeros(name: str, output: Any) -> None:
        dimension = -1 if units_last or output.ndim < 2 else 1
        by_unit = output.detach().movedim(dimension, -1)
        # Unequal to zero, not greater: NaN is a fault of its own, not a dead unit.
        alive = (by_unit != 0).reshape(-1, by_unit.shape[-1]).any(dim=0)
        calls = sum(key.partition("#")[0] == name for key in flags)
        flags[name if calls == 0 else f"{name}#{calls + 1}"] = ~alive

    handles = []
    for child, name in module_names(module).items():
        if isinstance(child, (*_UNITS_LAST, *_UNITS_SECOND)):
            handles.append(child.register_forward_hook(note_layout))
        elif isinstance(child, _RELUS):
            handles.append(
                child.register_forward_hook(lambda _module, _inputs, output, name=name: note_zeros(name, output))
            )
    with hooks_removed(handles):
        forward()
    return flags


def has_relu(module: nn.Module) -> bool:
    """Whether there is anything for `dead_relu_units` to look at."""
    return any(isinstance(child, _RELUS) for child in module.modules())
