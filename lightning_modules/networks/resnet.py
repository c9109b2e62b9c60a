"""The residual network of 18 layers, in the form for small images."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.lightning_modules.networks.checks import check_image_shape, check_num_classes, scaled_width
from steepest.lightning_modules.networks.initialization import Initialization, initialize

__all__ = ["ResNet18"]

WIDTHS = (64, 128, 256, 512)  # channels of the four stages
BLOCKS = 2  # in each stage


class ResNet18(nn.Module):
    """ResNet-18 for small images (arXiv 1512.03385): 3x3 stem, no max-pooling; 11,173,962 parameters for CIFAR-10.

    A stem, four stages of two blocks each, the mean over the image, a linear layer. All but the first stage halve the
    image (rounding up). The layers are called `stem`, `stem_norm`, `stage1.0.conv1`, ..., `output`. Images of shape
    (batch, *input_shape) become scores of shape (batch, num_classes).

    Args:
        input_shape: Shape of an image as (channels, height, width).
        num_classes: Number of scores.
        width_mult: Multiplies the channels 64, 128, 256, 512 (rounded, at least 1).
        initialization: How convolutions start, see `initialize`; the default is the paper's (arXiv 1502.01852). The
            output layer starts as PyTorch does: the larger one of "he" makes the first steps at a rate of 0.1 wild.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        width_mult: float = 1.0,
        initialization: Initialization = "he",
    ) -> None:
        super().__init__()
        in_channels, _, _ = check_image_shape(input_shape)
        check_num_classes(num_classes)
        widths = [scaled_width(width, width_mult) for width in WIDTHS]

        channels = widths[0]
        self.stem = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels)
        for stage, width in enumerate(widths, start=1):
            blocks = []
            for index in range(BLOCKS):
                blocks.append(ResidualBlock(channels, width, stride=2 if stage > 1 and index == 0 else 1))
                channels = width
            self.add_module(f"stage{stage}", nn.Sequential(*blocks))
        initialize(self, initialization)
        self.output = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, *input_shape) to scores (batch, num_classes)."""
        features = functional.relu(self.stem_norm(self.stem(images)))
        for stage in range(1, len(WIDTHS) + 1):
            features = self.get_submodule(f"stage{stage}")(features)
        return self.output(features.mean(dim=(2, 3)))


class ResidualBlock(nn.Module):
    """ReLU(x + f(x)), f two 3x3 convolutions with batch normalization, a ReLU after the first (arXiv 1512.03385).

    Where the shape changes, a 1x1 convolution with batch normalization stands in for the identity (its option B).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1, or 2 to halve the image.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, in_channels, h, w) to (batch, out_channels, h / stride, w / stride), rounded up."""
        hidden = functional.relu(self.norm1(self.conv1(features)))
        return functional.relu(torch.add(self.norm2(self.conv2(hidden)), self.shortcut(features)))
