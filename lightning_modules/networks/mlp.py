"""Fully connected networks on flattened images."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from steepest.lightning_modules.networks.checks import (
    Normalization,
    check_dropout,
    check_image_shape,
    check_normalization,
    check_num_classes,
    scaled_width,
)
from steepest.lightning_modules.networks.initialization import Initialization, initialize
from steepest.lightning_modules.networks.width_scaling import Parametrization, check_parametrization, scale_to_width


class DeepMLP(nn.Sequential):
    """Several hidden layers with ReLU: 784-256-128-64-32-10 by default.

    The layers are called `hidden1`, `hidden2`, ..., `output`. Images of shape (batch, *input_shape) become scores of
    shape (batch, num_classes).

    Args:
        input_shape: Shape of an image as (channels, height, width).
        num_classes: Number of scores.
        hidden: Widths of the hidden layers, from the input to the output; empty for a linear classifier.
        width_mult: Multiplies the hidden widths (rounded, at least 1).
        initialization: How weights start, see `initialize`.
        normalization: What follows each hidden layer, before its ReLU: batch or layer normalization or nothing.
        dropout: Probability that a hidden unit is dropped after its ReLU, in [0, 1).
        parametrization: "mup" keeps the best learning rate where it is at `width_mult` 1 (arXiv 2203.03466): start and
            learning rates of wider networks are scaled. It needs the initialization "default" or "he".

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        num_classes: int = 10,
        hidden: Sequence[int] = (256, 128, 64, 32),
        width_mult: float = 1.0,
        initialization: Initialization = "default",
        normalization: Normalization = "none",
        dropout: float = 0.0,
        parametrization: Parametrization = "standard",
    ) -> None:
        super().__init__()
        width = math.prod(check_image_shape(input_shape))
        check_num_classes(num_classes)
        check_normalization(normalization)
        check_dropout(dropout)
        check_parametrization(parametrization)
        if parametrization == "mup" and initialization not in ("default", "he"):
            raise ValueError(f"parametrization mup needs initialization default or he, not {initialization!r}")

        self.flatten = nn.Flatten()
        for index, hidden_width in enumerate(hidden, start=1):
            fan_in, width = width, scaled_width(hidden_width, width_mult)
            self.add_module(f"hidden{index}", nn.Linear(fan_in, width))
            if normalization != "none":
                norm = nn.BatchNorm1d(width) if normalization == "batch" else nn.LayerNorm(width)
                self.add_module(f"norm{index}", norm)
            self.add_module(f"relu{index}", nn.ReLU())
            if dropout:
                self.add_module(f"dropout{index}", nn.Dropout(dropout))
        self.output = nn.Linear(width, num_classes)
        initialize(self, initialization)
        if parametrization == "mup":
            with torch.device("meta"):  # only the shapes are needed
                base = DeepMLP(input_shape, num_classes, hidden, 1.0, "default", normalization, dropout)
            scale_to_width(self, base)


class SimpleMLP(DeepMLP):
    """One hidden layer with ReLU: 784-128-10 by default.

    The layers are called `hidden1` and `output`. Images of shape (batch, *input_shape) become scores of shape
    (batch, num_classes).

    Args:
        input_shape: Shape of an image as (channels, height, width).
        num_classes: Number of scores.
        hidden: Width of the hidden layer.
        width_mult: Multiplies the hidden width (rounded, at least 1).
        initialization: How weights start, see `initialize`.
        normalization: What follows the hidden layer, before its ReLU: batch or layer normalization or nothing.
        dropout: Probability that a hidden unit is dropped after its ReLU, in [0, 1).
        parametrization: "mup" keeps the best learning rate where it is at `width_mult` 1 (arXiv 2203.03466): start and
            learning rates of wider networks are scaled. It needs the initialization "default" or "he".

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        num_classes: int = 10,
        hidden: int = 128,
        width_mult: float = 1.0,
        initialization: Initialization = "default",
        normalization: Normalization = "none",
        dropout: float = 0.0,
        parametrization: Parametrization = "standard",
    ) -> None:
        super().__init__(
            input_shape, num_classes, (hidden,), width_mult, initialization, normalization, dropout, parametrization
        )


class WidthMLP(DeepMLP):
    """Two equal hidden layers with ReLU, for studies of width: 3072-512-512-10 by default.

    The layers are called `hidden1`, `hidden2` and `output`. Images of shape (batch, *input_shape) become scores of
    shape (batch, num_classes).

    Args:
        input_shape: Shape of an image as (channels, height, width).
        num_classes: Number of scores.
        hidden: Width of each hidden layer.
        width_mult: Multiplies the hidden widths (rounded, at least 1).
        initialization: How weights start, see `initialize`.
        normalization: What follows each hidden layer, before its ReLU: batch or layer normalization or nothing.
        dropout: Probability that a hidden unit is dropped after its ReLU, in [0, 1).
        parametrization: "mup" keeps the best learning rate where it is at `width_mult` 1 (arXiv 2203.03466): start and
            learning rates of wider networks are scaled. It needs the initialization "default" or "he".

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        hidden: int = 512,
        width_mult: float = 1.0,
        initialization: Initialization = "default",
        normalization: Normalization = "none",
        dropout: float = 0.0,
        parametrization: Parametrization = "standard",
    ) -> None:
        super().__init__(
            input_shape,
            num_classes,
            (hidden, hidden),
            width_mult,
            initialization,
            normalization,
            dropout,
            parametrization,
        )
