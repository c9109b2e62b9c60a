"""Arguments that all networks share, refused in one line when they are wrong."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

Normalization = Literal["none", "batch", "layer"]


def check_image_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape of an image as (channels, height, width).

    Raises:
        ValueError: if it is not three whole numbers, each at least 1.
    """
    if not isinstance(input_shape, tuple | list) or len(input_shape) != 3 or not all(map(_is_size, input_shape)):
        raise ValueError(f"input_shape must be (channels, height, width), each at least 1, not {input_shape!r}")
    channels, height, width = input_shape
    return channels, height, width


def check_size(name: str, size: int) -> None:
    """Refuse a number of things, called `name`, that is not a whole number or below 1."""
    if not _is_size(size):
        raise ValueError(f"{name} must be a whole number, at least 1, not {size!r}")


def check_num_classes(num_classes: int) -> None:
    """Refuse a number of classes below 1."""
    check_size("num_classes", num_classes)


def check_dropout(dropout: float) -> None:
    """Refuse a probability outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), not {dropout!r}")


def check_normalization(normalization: str) -> None:
    """Refuse an unknown name."""
    if normalization not in get_args(Normalization):
        raise ValueError(f"normalization {normalization!r} is unknown; allowed: {', '.join(get_args(Normalization))}")


def scaled_width(width: int, width_mult: float) -> int:
    """Return a hidden width times `width_mult`, rounded, at least 1.

    Raises:
        ValueError: if the width is not a whole number, at least 1, or the multiplier not a positive number.
    """
    check_size("a hidden width", width)
    if not (math.isfinite(width_mult) and width_mult > 0):
        raise ValueError(f"width_mult must be a positive number, not {width_mult!r}")
    return max(round(width * width_mult), 1)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
