"""Convolutions as the linear operators they are, with their stride, padding and input size."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from steepest.common.parameter_names import module_names
from steepest.diagnostics.common.guards import hooks_removed
from steepest.diagnostics.spectral.singular_values import Operator, singular_values

_TRANSPOSED = {1: nn.functional.conv_transpose1d, 2: nn.functional.conv_transpose2d, 3: nn.functional.conv_transpose3d}


def is_convolution(layer: nn.Module) -> bool:
    """Whether `convolution_operator` takes this layer: nn.Conv1d to 3d and nn.ConvTranspose1d to 3d."""
    return isinstance(layer, _ConvNd)


def convolution_operator(layer: nn.Module, input_shape: tuple[int, ...]) -> Operator:
    """A convolution without its bias, as an operator between flattened images.

    The norm of the flattened kernel is another quantity: 0.45 to 1.0 times this one on a ResNet-18.

    Args:
        layer: See `is_convolution`; any stride, padding (mode), dilation and groups.
        input_shape: Shape of one input, (channels, *sizes).

    Raises:
        ValueError: if the layer is not a convolution.
    """
    if not isinstance(layer, _ConvNd):
        raise ValueError(f"{type(layer).__name__} is not a convolution of torch.nn")
    weight = layer.weight.detach()
    weight = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()

    def convolve(images: Tensor) -> Tensor:
        if isinstance(layer, _ConvTransposeNd):
            transposed: Callable[..., Tensor] = _TRANSPOSED[weight.ndim - 2]
            options = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
            return transposed(images, weight, None, *options)
        return layer._conv_forward(images, weight, None)  # type: ignore[operator]  # does the padding modes

    def apply(vectors: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        with torch.enable_grad():
            images = vectors.detach().reshape(-1, *input_shape).requires_grad_()
            outputs = convolve(images)

        def adjoint(vectors: Tensor) -> Tensor:
            (pulled_back,) = torch.autograd.grad(outputs, images, vectors.reshape(outputs.shape))
            return pulled_back.flatten(1)

        return outputs.detach().flatten(1), adjoint

    return apply


def is_circular(layer: nn.Module) -> bool:
    """Whether `circular_singular_values` describes this layer exactly."""
    return (
        isinstance(layer, _ConvNd)
        and layer.padding_mode == "circular"
        and all(stride == 1 for stride in layer.stride)
        and _keeps_size(layer)
    )


def circular_singular_values(
    weight: Tensor, sizes: tuple[int, ...], groups: int = 1, dilation: tuple[int, ...] | None = None
) -> Tensor:
    """All singular values of a convolution with stride 1 and circular padding, exactly (arXiv 1805.10408).

    The Fourier transform makes it one matrix of output by input channels for each frequency. Zero padding has a norm
    that is smaller by up to 12 % (on maps of 4 x 4).

    Args:
        weight: Kernel of shape (out, in / groups, *kernel).
        sizes: Height, width and so on of the input; the kernel, with its dilation, must fit in.
        groups: Groups of channels that do not see each other.
        dilation: Distance between the entries of the kernel, for each dimension; None means 1.

    Returns:
        Float64, of no order.

    Raises:
        ValueError: if the kernel is larger than the input.
    """
    kernel = weight.shape[2:]
    spread = dilation or (1,) * len(kernel)
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, spread, strict=True)]
    if any(extent > size for extent, size in zip(reach, sizes, strict=True)):
        raise ValueError(f"a kernel that covers {reach} does not fit into an input of {list(sizes)}")
    weight = weight.detach().cpu() if weight.device.type == "mps" else weight.detach()  # which has no float64
    dilated = torch.zeros(*weight.shape[:2], *reach, dtype=torch.float64, device=weight.device)
    dilated[(..., *(slice(None, None, step) for step in spread))] = weight.double()
    transform = torch.fft.fftn(dilated, s=list(sizes), dim=list(range(2, weight.ndim)))
    matrices = transform.flatten(2).unflatten(0, (groups, -1)).permute(0, 3, 1, 2)  # groups, frequencies, out, in
    return singular_values(matrices, torch.complex128).flatten()


def convolution_input_shapes(module: nn.Module, forward: Callable[[], object]) -> dict[str, tuple[int, ...]]:
    """The shape (channels, *sizes) of the first input of each convolution during one forward pass.

    Args:
        module: The network, or anything that holds it.
        forward: Runs one forward pass; wrap it in `steepest.diagnostics.common.guards.undisturbed` and `torch.no_grad`.

    Returns:
        By the convolution's plain name in the module; a layer that is not called is missing.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def watch(name: str, layer: _ConvNd) -> torch.utils.hooks.RemovableHandle:
        def note(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs:
                shapes.setdefault(name, tuple(inputs[0].shape[-(layer.weight.ndim - 1) :]))

        return layer.register_forward_pre_hook(note)

    handles = [watch(name, child) for child, name in module_names(module).items() if isinstance(child, _ConvNd)]
    with hooks_removed(handles):
        forward()
    return shapes


def _keeps_size(layer: _ConvNd) -> bool:
    if isinstance(layer.padding, str):
        return layer.padding == "same"
    return all(
        2 * padding == dilation * (kernel - 1)
        for padding, dilation, kernel in zip(layer.padding, layer.dilation, layer.kernel_size, strict=True)
    )
