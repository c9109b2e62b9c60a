"""AutoSGM's step through torch.compile: one or two passes over the memory in place of thirty.

The kernels see each tensor as a row of numbers of any length, so that a handful of them serves all shapes.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from steepest.optim.autosgm.foreach import is_dense
from steepest.optim.autosgm.kernels import KERNELS, PLAIN, Kernel, Numbers
from steepest.optim.autosgm.numerators import SCALAR_STATES
from steepest.optim.core.algorithm import State

# Elements of the row that the kernels are compiled for before they see a tensor of a model, so that how they divide the
# work among threads does not depend on which comes first.
LENGTH = 1 << 16

Group = Mapping[str, Any]
_SCALARS = {"numerator"}.union(*SCALAR_STATES.values())


def check_compiler(devices: Iterable[str]) -> None:
    """Refuse to go on where the kernels could not be compiled.

    Args:
        devices: Types of the devices that hold parameters.

    Raises:
        ValueError: naming the device, or what is missing.
    """
    for device in sorted(set(devices)):
        if device == "cpu":
            _check_cpp_compiler()
        elif device != "cuda":
            raise ValueError(f"compiled=True is for parameters on cpu or cuda, not on {device}: leave it out")
        elif not has_triton():
            raise ValueError("compiled=True needs Triton for parameters on cuda: pip install triton, or leave it out")


def step(group: Group, numbers: Numbers, weight: Tensor, gradient: Tensor, state: State) -> Tensor | None:
    """One step of one tensor, without the shift of its zeros.

    Args:
        group: Its parameter group.
        numbers: Those of the step, on the CPU and of the weight's type.
        weight: Changed in place; it has at least one element.
        gradient: Its gradient.
        state: Its state, changed in place.

    Returns:
        Its numerator; None where that is the learning rate.

    Raises:
        ValueError: if the compiler fails.
    """
    kernels, elementwise = _plan(group["numerator"] if group["adaptive"] else None)
    layout = weight.detach()
    if not is_dense(layout):
        layout = torch.empty_like(layout)
    values, copies = dict(state), []
    for name, tensor in (("weight", weight.detach()), *((name, state[name]) for name in elementwise)):
        laid_out = _in_layout(tensor, layout)
        if laid_out is not tensor:
            copies.append((tensor, laid_out))
        values[name] = _row(laid_out)
    if gradient.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr():
        # The compiler would make a kernel of its own for it, and find that in its cache where it does not fit.
        gradient = gradient.clone()
    row = _row(_in_layout(gradient, layout))
    for kernel in kernels:
        function = _prepared(kernel, weight.device, weight.dtype)
        numerator = function(numbers, values["weight"], row, *[values[name] for name in kernel.states])
        if numerator is not None:
            values["numerator"] = numerator
    for tensor, copy in copies:
        tensor.copy_(copy)
    # For autograd, which did not see the weight change through its row.
    torch.autograd.graph.increment_version(weight)
    return values.get("numerator")


@cache
def _plan(numerator: str | None) -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """The kernels of a step (None: without a denominator), and those of their states with an entry per element."""
    kernels = PLAIN if numerator is None else KERNELS[numerator]
    names = dict.fromkeys(name for kernel in kernels for name in kernel.states)
    return kernels, tuple(name for name in names if name not in _SCALARS)


def _in_layout(tensor: Tensor, layout: Tensor) -> Tensor:
    """The tensor, or a copy, with its elements in the order of another."""
    return tensor if tensor.stride() == layout.stride() else torch.empty_like(layout).copy_(tensor)


def _row(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor in the order of memory, which is shared."""
    if tensor.ndim == 1 and tensor._base is None:
        return tensor
    # No view: the compiler would look at the shape of what is viewed, and compile for each anew.
    row = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return row.set_(tensor.untyped_storage(), tensor.storage_offset(), (tensor.numel(),), (1,))


@cache
def _prepared(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor | None]:
    """A kernel, compiled for tensors of a device and type."""
    function = _compiled(kernel.function)
    numbers = Numbers(*[torch.ones((), dtype=dtype) for _ in Numbers._fields])
    try:
        shapes = [() if name in _SCALARS else (LENGTH,) for name in ("weight", "gradient", *kernel.states)]
        function(numbers, *[torch.ones(shape, dtype=dtype, device=device) for shape in shapes])
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise ValueError(
            f"compiled=True is not possible: torch.compile fails with {type(error).__name__}: {reason}; leave it out"
        ) from error
    return function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # With fullgraph, what cannot be compiled is an error and never runs uncompiled.
    return torch.compile(function, dynamic=True, fullgraph=True)


def _check_cpp_compiler() -> None:
    # Imported late: it takes a second.
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except (RuntimeError, OSError):
        raise ValueError(
            "compiled=True needs a C++ compiler for parameters on cpu and finds none: install g++, name another by the "
            "environment variable CXX, or leave compiled out"
        ) from None
