"""muP: networks whose best learning rate stays where it is when they become wider (arXiv 2203.03466)."""

import math
from typing import Literal, get_args

import torch
from torch import nn

Parametrization = Literal["standard", "mup"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)


def check_parametrization(parametrization: str) -> None:
    """Refuse an unknown name."""
    if parametrization not in get_args(Parametrization):
        raise ValueError(
            f"parametrization {parametrization!r} is unknown; allowed: {', '.join(get_args(Parametrization))}"
        )


@torch.no_grad()
def scale_to_width(network: nn.Module, base: nn.Module, constant_deviation: bool = False) -> None:
    """Rescale the start of a network to muP's, and note how much wider it is than its base, for optimizers.

    At the base width nothing changes. Elsewhere the standard deviations are those of table 3 of the paper: weights that
    map width to width fall with fan_in^-1/2, weights that map width to a fixed size with 1 / fan_in, and what has no
    wide input (first layer, tables, gains, offsets) stays as at the base width.

    Optimizers scale learning rates by what is noted here, see `steepest.optim.core.width_scaling`. A network whose
    attention heads become wider (not more) must itself divide the products of queries and keys by the features of a
    head over their root at the base width, and one that shares a table between input and output its scores by how much
    wider it is; such a table counts as the input's.

    Args:
        network: Changed in place. It gets an attribute `width_ratios`: by parameter name the number of inputs of a unit
            over that at the base width, and the same of the outputs. Parameters other than weights of layers count as
            tables, with outputs along the last dimension.
        base: The same network at the base width; only its shapes are read, so it may be on the device "meta".
        constant_deviation: Whether the weights of the network started with the same deviation at every width, as in
            GPT-2. False: with one that falls as fan_in^-1/2, the offsets too (PyTorch's default).

    Raises:
        ValueError: if the two have other layers.
    """
    layers, base_layers = dict(network.named_modules()), dict(base.named_modules())
    if list(layers) != list(base_layers):
        raise ValueError("a network and its base for muP must have the same layers, apart from their widths")
    tables = {layer.weight for layer in layers.values() if isinstance(layer, nn.Embedding)}
    ratios: dict[str, tuple[float, float]] = {}
    divisors: dict[nn.Parameter, float] = {}  # by parameter: what two layers share is divided once
    for place, layer in layers.items():
        of_weight = 1.0
        for name, parameter in layer.named_parameters(recurse=False):
            is_weight = isinstance(layer, _LAYERS) and parameter.ndim >= 2 and parameter not in tables
            base_parameter = base_layers[place].get_parameter(name)
            fans, base_fans = _fans(parameter, is_weight), _fans(base_parameter, is_weight)
            fan_in, fan_out = (now / before for now, before in zip(fans, base_fans, strict=True))
            ratios[f"{place}.{name}" if place else name] = (fan_in, fan_out)
            if is_weight:
                of_weight = fan_in
                divisors[parameter] = (math.sqrt(fan_in) if constant_deviation else 1.0) * (
                    math.sqrt(fan_in) if fan_out == 1 else 1.0
                )
            elif isinstance(layer, _LAYERS) and parameter.ndim < 2 and not constant_deviation:
                divisors[parameter] = 1 / math.sqrt(of_weight)
    for parameter, divisor in divisors.items():
        parameter.div_(divisor)
    network.width_ratios = ratios  # type: ignore[assignment]


def _fans(parameter: torch.Tensor, is_weight: bool) -> tuple[int, int]:
    """Inputs and outputs of a unit, of a layer's weight or of a table or vector."""
    if parameter.ndim < 2:
        return 1, parameter.numel()
    outputs = parameter.shape[0] if is_weight else parameter.shape[-1]
    return parameter.numel() // outputs, outputs
