"""Context managers under which a measurement leaves a training run exactly as it found it."""

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import numpy
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

BatchNormMode = Literal["batch", "running"]


@contextmanager
def rng_restored() -> Iterator[None]:
    """Give Python, NumPy and PyTorch (CPU and every GPU in use) their random state back on exit."""
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    cpu_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
        torch.set_rng_state(cpu_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)


@contextmanager
def buffers_restored(module: nn.Module) -> Iterator[None]:
    """Give every buffer of `module`, persistent or not, its object and its values back on exit."""
    saved = [
        (owner, name, buffer, buffer.detach().clone())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for owner, name, buffer, values in saved:
            owner._buffers[name] = buffer
            _overwrite(buffer, values)


@contextmanager
def values_restored(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Give tensors, such as parameters, their values back on exit, to the bit; yields the copies that this costs."""
    tensors = list(tensors)
    kept = [tensor.detach().clone() for tensor in tensors]
    try:
        yield kept
    finally:
        with torch.no_grad():
            torch._foreach_copy_(tensors, kept)


@contextmanager
def gradients_set_aside(module: nn.Module) -> Iterator[None]:
    """Take `.grad` away from every parameter and give the same tensors back, untouched, on exit."""
    saved = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in saved:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in saved:
            parameter.grad = gradient


@contextmanager
def measurement_mode(module: nn.Module, batch_norm: BatchNormMode = "batch") -> Iterator[None]:
    """Make the forward pass deterministic: dropout off, batch normalization as chosen, all flags restored on exit.

    Everything goes to evaluation mode, because only that switches off functional dropout and stochastic depth as well
    as the Dropout modules. Code that runs in training mode only (auxiliary heads and losses) is therefore left out.

    Args:
        module: The network, or the LightningModule around it.
        batch_norm: "batch" normalizes by the statistics of the batch, as training does; "running" by the running
            averages, as evaluation does. Curvature differs widely between the two, so name the mode in what you log.

    Raises:
        ValueError: if `batch_norm` is neither.
    """
    if batch_norm not in ("batch", "running"):
        raise ValueError(f"batch_norm must be 'batch' or 'running', got {batch_norm!r}")
    training = [(child, child.training) for child in module.modules()]
    recurrent_dropout = [(child, child.dropout) for child in module.modules() if isinstance(child, nn.RNNBase)]
    try:
        for child, was_training in training:
            # Only modules that trained on batch statistics: one the user has frozen stays frozen.
            by_batch = batch_norm == "batch" and isinstance(child, nn.modules.batchnorm._NormBase) and was_training
            # cuDNN cannot differentiate a recurrent network in evaluation mode: without its dropout it may train.
            child.training = by_batch or (isinstance(child, nn.RNNBase) and was_training)
        for child, _ in recurrent_dropout:
            child.dropout = 0.0
        yield
    finally:
        for child, was_training in training:
            child.training = was_training
        for child, dropout in recurrent_dropout:
            child.dropout = dropout


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Run compiled modules eagerly and attention by plain matrix products: both can then be differentiated twice."""
    with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def undisturbed(module: nn.Module, batch_norm: BatchNormMode = "batch") -> Iterator[None]:
    """All of the above, except for the copies of `values_restored`: what a measurement needs around its passes.

    Take gradients with `torch.autograd.grad`: `backward` would also start the reduction hooks of
    DistributedDataParallel.

    Args:
        module: The network, or the LightningModule around it; never the DistributedDataParallel wrapper.
        batch_norm: See `measurement_mode`.
    """
    with ExitStack() as stack:
        for guard in (
            rng_restored(),
            buffers_restored(module),
            gradients_set_aside(module),
            measurement_mode(module, batch_norm),
            differentiable_kernels(),
        ):
            stack.enter_context(guard)
        yield


@contextmanager
def hooks_removed(handles: Iterable[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Remove these hooks on exit, whatever happens."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _overwrite(target: Tensor, values: Tensor) -> None:
    target.copy_(values)
