"""The MLP-Mixer."""

from torch import Tensor, nn

from steepest.lightning_modules.networks.checks import check_dropout, check_num_classes, check_size, scaled_width
from steepest.lightning_modules.networks.initialization import Initialization, initialize
from steepest.lightning_modules.networks.patches import FeedForward, PatchEmbedding

__all__ = ["MLPMixer"]


class MLPMixer(nn.Module):
    """MLP-Mixer (arXiv 2105.01601): feed-forward networks along patches and along features in turn, no attention.

    4,360,970 parameters for CIFAR-10. The layers are called `patches.projection`, `blocks.0.across_patches.hidden`,
    ..., `output`. Images of shape (batch, *input_shape) become scores of shape (batch, num_classes). As in the paper
    the feed-forward networks have half (across patches) and four times (across features) as many units as features,
    and the output layer starts at zero, so that all scores are 0 at first.

    Args:
        input_shape: Shape of an image as (channels, height, width).
        num_classes: Number of scores.
        patch_size: Side of a patch in pixels; divides height and width.
        width: Features of a patch.
        depth: Number of blocks.
        patch_mlp_width: Hidden units of the networks across patches.
        feature_mlp_width: Hidden units of the networks across features.
        width_mult: Multiplies these three widths (rounded, at least 1).
        initialization: How the weights of the blocks start, see `initialize`; the patch embedding see `PatchEmbedding`.
        dropout: Probability that a value of a feed-forward network is dropped, in [0, 1).

    Raises:
        ValueError: if an argument is out of range or the patches do not tile the image.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        patch_size: int = 4,
        width: int = 256,
        depth: int = 8,
        patch_mlp_width: int = 128,
        feature_mlp_width: int = 1024,
        width_mult: float = 1.0,
        initialization: Initialization = "xavier",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_dropout(dropout)
        check_size("depth", depth)
        width, patch_mlp_width, feature_mlp_width = (
            scaled_width(size, width_mult) for size in (width, patch_mlp_width, feature_mlp_width)
        )

        self.patches = PatchEmbedding(input_shape, patch_size, width)
        count = self.patches.count
        self.blocks = nn.Sequential(
            *(MixerBlock(count, width, patch_mlp_width, feature_mlp_width, dropout) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, num_classes)
        initialize(self.blocks, initialization)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, *input_shape) to scores (batch, num_classes)."""
        return self.output(self.norm(self.blocks(self.patches(images))).mean(dim=1))


class MixerBlock(nn.Module):
    """X <- X + f(norm(X)^T)^T, X <- X + g(norm(X)), X of shape (patches, features).

    Args:
        patches: Number of patches of an image.
        features: Features of a patch.
        patch_mlp_width: Hidden units of f.
        feature_mlp_width: Hidden units of g.
        dropout: Probability that a value is dropped, in [0, 1).
    """

    def __init__(
        self, patches: int, features: int, patch_mlp_width: int, feature_mlp_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features)
        self.across_patches = FeedForward(patches, patch_mlp_width, dropout)
        self.norm2 = nn.LayerNorm(features)
        self.across_features = FeedForward(features, feature_mlp_width, dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, patches, features) to tokens of the same shape."""
        tokens = tokens + self.across_patches(self.norm1(tokens).mT).mT
        return tokens + self.across_features(self.norm2(tokens))
