"""What networks on patches of an image share."""

import math

from torch import Tensor, nn

from steepest.lightning_modules.networks.checks import check_image_shape, check_size

__all__: list[str] = []  # parts, none of them a network


class PatchEmbedding(nn.Module):
    """Cuts images into square patches and maps each to a token.

    The map is a convolution with stride: one linear layer for all patches, in the row-major order of their places. It
    starts with variance 1 / fan_in, so that normalized pixels become features of size 1, and zero offsets.

    Args:
        input_shape: Shape of an image as (channels, height, width).
        patch_size: Side of a patch in pixels; divides height and width.
        width: Features of a token.

    Attributes:
        count: Number of tokens of an image.

    Raises:
        ValueError: if patches of this size do not tile the image.
    """

    def __init__(self, input_shape: tuple[int, int, int], patch_size: int, width: int) -> None:
        super().__init__()
        channels, height, image_width = check_image_shape(input_shape)
        check_size("patch_size", patch_size)
        if height % patch_size or image_width % patch_size:
            raise ValueError(
                f"patch_size must divide the height and width of the image, {height}x{image_width}, not {patch_size}"
            )
        self.count = (height // patch_size) * (image_width // patch_size)
        self.image_size = (height, image_width)
        self.projection = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)
        nn.init.normal_(self.projection.weight, std=math.sqrt(1 / (channels * patch_size**2)))
        nn.init.zeros_(self.projection.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, height, width) to tokens (batch, count, width).

        Raises:
            ValueError: if the images have another size.
        """
        if images.shape[-2:] != self.image_size:
            raise ValueError(
                f"images must have {self.image_size[0]}x{self.image_size[1]} pixels, as the network was made for, not "
                f"{images.shape[-2]}x{images.shape[-1]}"
            )
        return self.projection(images).flatten(2).mT


class FeedForward(nn.Sequential):
    """Linear, GELU, dropout, linear, dropout, along the last dimension.

    Args:
        features: Size of the last dimension, which stays.
        hidden: Number of hidden units.
        dropout: Probability that a value is dropped, in [0, 1).
    """

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, hidden)
        self.gelu = nn.GELU()
        self.dropout1 = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, features)
        self.dropout2 = nn.Dropout(dropout)
