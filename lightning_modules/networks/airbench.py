"""The network of fast CIFAR-10 training."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.lightning_modules.networks.checks import check_image_shape, check_num_classes, scaled_width

__all__ = ["AirbenchCNN"]

WIDTHS = (64, 256, 256)  # channels of the three groups
KERNEL = 2  # side of the patches that are whitened
FLOOR = 5e-4  # added to the variances of patches, so that noise is not blown up


class AirbenchCNN(nn.Module):
    """The network of airbench (arXiv 2404.00498), 94 % on CIFAR-10 within ten epochs; 1,972,792 parameters.

    A first layer with fixed filters that whitens 2x2 patches, then three groups of two 3x3 convolutions with pooling in
    between, the maximum over the image, and an output layer. Batch normalization has no gains. The layers are called
    `whitening`, `group1.conv1`, ..., `output`. Images of shape (batch, *input_shape) become scores of shape
    (batch, num_classes).

    The convolutions start as the identity on their first channels (`nn.init.dirac_`), the rest as PyTorch's default;
    the output layer with deviation 1, its scores divided by the number of features.

    Args:
        input_shape: Shape of an image as (channels, height, width), height and width at least 9.
        num_classes: Number of scores.
        width_mult: Multiplies the channels 64, 256, 256 (rounded, at least 1).
        whitening: Fix the filters of the first layer by `initialize_from_data`, which has to be called before the
            network is used (`ImageClassifier` does so before it trains); false trains them from a random start.

    Raises:
        ValueError: if an argument is out of range or the image too small.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        width_mult: float = 1.0,
        whitening: bool = True,
    ) -> None:
        super().__init__()
        in_channels, height, width = check_image_shape(input_shape)
        check_num_classes(num_classes)
        if min(height, width) < 8 + KERNEL - 1:
            raise ValueError(f"AirbenchCNN halves images three times: they must be at least 9x9, not {height}x{width}")
        # Each direction of a patch's space and its opposite: no sign is lost in the activation.
        channels = 2 * in_channels * KERNEL**2
        self.whitening = nn.Conv2d(in_channels, channels, kernel_size=KERNEL)
        self.whitening.weight.requires_grad_(not whitening)
        self.is_ready = not whitening
        for group, base in enumerate(WIDTHS, start=1):
            out_channels = scaled_width(base, width_mult)
            self.add_module(f"group{group}", ConvolutionGroup(channels, out_channels))
            channels = out_channels
        self.output = nn.Linear(channels, num_classes, bias=False)
        nn.init.normal_(self.output.weight)
        nn.init.zeros_(self.whitening.bias)  # type: ignore[arg-type]
        self.register_load_state_dict_post_hook(_declare_ready)

    @torch.no_grad()
    def initialize_from_data(self, images: Tensor) -> None:
        """Set the filters of the first layer so that its outputs on patches of these images are uncorrelated.

        They are the eigenvectors of the second moments of all 2x2 patches, each divided by the root of its eigenvalue
        plus 5e-4, and their negatives. Without `whitening` nothing is done.

        Args:
            images: Normalized training images of shape (batch, *input_shape); a thousand are plenty.
        """
        if self.is_ready:
            return
        patches = functional.unfold(images.double(), KERNEL).mT.flatten(0, 1)  # (patches, channels * 4)
        variances, directions = torch.linalg.eigh(patches.mT @ patches / len(patches))
        filters = (directions / (variances + FLOOR).sqrt()).mT
        weight = self.whitening.weight
        weight.copy_(torch.cat([filters, -filters]).view(weight.shape))
        self.is_ready = True

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, *input_shape) to scores (batch, num_classes).

        Raises:
            ValueError: if the first layer has no filters yet.
        """
        if not self.is_ready:
            raise ValueError("AirbenchCNN has no whitening filters yet: call initialize_from_data(images) first")
        features = functional.gelu(self.whitening(images))
        for group in range(1, len(WIDTHS) + 1):
            features = self.get_submodule(f"group{group}")(features)
        features = features.amax(dim=(2, 3))
        return self.output(features) / features.shape[1]


class ConvolutionGroup(nn.Module):
    """A 3x3 convolution, 2x2 pooling, a second convolution; batch normalization and GELU after each.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, out_channels)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = _norm(out_channels)
        self.conv2 = _convolution(out_channels, out_channels)
        self.norm2 = _norm(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, in_channels, h, w) to (batch, out_channels, h / 2, w / 2), rounded down."""
        features = functional.gelu(self.norm1(self.pool(self.conv1(features))))
        return functional.gelu(self.norm2(self.conv2(features)))


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[: min(in_channels, out_channels)])
    return layer


def _norm(channels: int) -> nn.BatchNorm2d:
    # airbench keeps 0.6 of its running statistics, which PyTorch calls a momentum of 0.4: the run is short.
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def _declare_ready(module: Any, incompatible_keys: Any) -> None:
    module.is_ready = True
