"""A small convolutional network for small images."""

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


class SmallCNN(nn.Sequential):
    """Two 3x3 convolutions (32 and 64 channels), 2x2 pooling after each, a hidden layer of 256 units, the output.

    The layers are called `conv1`, `conv2`, `hidden`, `output`. The convolutions keep the size of the image, each
    pooling halves it (rounding down). Images of shape (batch, *input_shape) become scores of shape
    (batch, num_classes).

    Args:
        input_shape: Shape of an image as (channels, height, width), height and width at least 4.
        num_classes: Number of scores.
        width_mult: Multiplies the channels and the hidden width (rounded, at least 1).
        initialization: How weights start, see `initialize`.
        normalization: What follows each convolution and the hidden layer, before its ReLU: batch or layer normalization
            (of a convolution over channels, height and width) or nothing.
        dropout: Probability that a unit of the hidden layer is dropped after its ReLU, in [0, 1).

    Raises:
        ValueError: if an argument is out of range or the image too small for two poolings.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        num_classes: int = 10,
        width_mult: float = 1.0,
        initialization: Initialization = "default",
        normalization: Normalization = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, width = check_image_shape(input_shape)
        if min(height, width) < 4:
            raise ValueError(f"SmallCNN pools twice by 2: images must be at least 4x4, not {height}x{width}")
        check_num_classes(num_classes)
        check_normalization(normalization)
        check_dropout(dropout)
        widths = {
            name: scaled_width(base, width_mult) for name, base in (("conv1", 32), ("conv2", 64), ("hidden", 256))
        }

        for index in (1, 2):
            in_channels, channels = channels, widths[f"conv{index}"]
            self.add_module(f"conv{index}", nn.Conv2d(in_channels, channels, kernel_size=3, padding=1))
            if normalization != "none":
                # One group: the layer normalization of an image, with one gain and offset per channel.
                norm = nn.BatchNorm2d(channels) if normalization == "batch" else nn.GroupNorm(1, channels)
                self.add_module(f"norm{index}", norm)
            self.add_module(f"relu{index}", nn.ReLU())
            self.add_module(f"pool{index}", nn.MaxPool2d(2))

        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(channels * (height // 4) * (width // 4), widths["hidden"])
        if normalization != "none":
            self.norm3 = (nn.BatchNorm1d if normalization == "batch" else nn.LayerNorm)(widths["hidden"])
        self.relu3 = nn.ReLU()
        if dropout:
            self.dropout3 = nn.Dropout(dropout)
        self.output = nn.Linear(widths["hidden"], num_classes)
        initialize(self, initialization)
