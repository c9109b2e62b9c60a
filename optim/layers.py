"""The depth of each parameter, for learning rates that fall towards the input."""

import re
from collections.abc import Sequence

from torch import nn

_THROUGH_FIRST_NUMBER = re.compile(r"^(.*?\.)?\d+(?=\.)")


def layer_depths(module: nn.Module, names: Sequence[str]) -> list[int]:
    """The layer of each parameter, counted from 0 at the input.

    A module may say it itself by a method `layer_id(name) -> int`. Otherwise what shares a numbered block
    ("blocks.3.") is one layer, any other owner of parameters is a layer of its own, in the order of the names.

    Args:
        module: The model.
        names: Names of its parameters in the order of `named_parameters()`.

    Returns:
        One depth for each name.
    """
    own = getattr(module, "layer_id", None)
    if callable(own):
        return [int(own(name)) for name in names]  # pyright: ignore[reportArgumentType]
    depths: dict[str, int] = {}
    return [depths.setdefault(_layer(name), len(depths)) for name in names]


def layer_scales(module: nn.Module, names: Sequence[str], decay: float | None) -> list[float]:
    """Learning-rate factor of each parameter: `decay` to the number of layers between it and the last (ELECTRA, BEiT).

    Args:
        module: The model.
        names: Names of its parameters in order.
        decay: Factor per layer, in (0, 1]; None for no decay: factors of 1.
    """
    if decay is None:
        return [1.0] * len(names)
    depths = layer_depths(module, names)
    return [decay ** (max(depths) - depth) for depth in depths]


def _layer(name: str) -> str:
    numbered = _THROUGH_FIRST_NUMBER.match(name)
    return numbered.group(0) if numbered else name.rpartition(".")[0]
