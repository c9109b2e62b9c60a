"""The vision transformer."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.lightning_modules.networks.checks import check_dropout, check_num_classes, check_size, scaled_width
from steepest.lightning_modules.networks.patches import FeedForward, PatchEmbedding

__all__ = ["ViT"]

DEVIATION = 0.02  # of the weights at the start, as in BERT, GPT-2 and the usual codes of the vision transformer


class ViT(nn.Module):
    """Vision transformer (arXiv 2010.11929), pre-normalized, with a class token; 3,195,146 parameters for CIFAR-10.

    The layers are called `patches.projection`, `blocks.0.attention.qkv`, ..., `output`. Images of shape
    (batch, *input_shape) become scores of shape (batch, num_classes).

    Weights start normal with deviation 0.02, offsets at zero, the class token and the output layer at zero (as in the
    paper's code), so that all scores are 0 at first; the patch embedding see `PatchEmbedding`.

    Args:
        input_shape: Shape of an image as (channels, height, width).
        num_classes: Number of scores.
        patch_size: Side of a patch in pixels; divides height and width.
        width: Features of a token; a multiple of `heads`.
        depth: Number of blocks.
        heads: Attention heads of a block.
        mlp_width: Hidden units of a block's feed-forward network.
        width_mult: Multiplies the number of heads and the units of the feed-forward networks (rounded, at least 1);
            the features of a head stay, so the width of a token grows with its heads.
        dropout: Probability that a value is dropped: of the tokens, of what attention and feed-forward network add, and
            of the attention weights; in [0, 1).

    Raises:
        ValueError: if an argument is out of range or the patches do not tile the image.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        patch_size: int = 4,
        width: int = 256,
        depth: int = 6,
        heads: int = 8,
        mlp_width: int = 512,
        width_mult: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_dropout(dropout)
        for name, value in (("width", width), ("depth", depth), ("heads", heads), ("mlp_width", mlp_width)):
            check_size(name, value)
        if width % heads:
            raise ValueError(f"heads must divide width {width}, not {heads}")
        features_of_head = width // heads
        heads, mlp_width = scaled_width(heads, width_mult), scaled_width(mlp_width, width_mult)
        width = heads * features_of_head

        self.patches = PatchEmbedding(input_shape, patch_size, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, 1 + self.patches.count, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, mlp_width, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, num_classes)

        nn.init.normal_(self.position, std=DEVIATION)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=DEVIATION)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, *input_shape) to scores (batch, num_classes)."""
        patches = self.patches(images)
        tokens = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1) + self.position
        tokens = self.blocks(self.dropout(tokens))
        return self.output(self.norm(tokens[:, 0]))


class TransformerBlock(nn.Module):
    """x <- x + attention(norm(x)), x <- x + mlp(norm(x)).

    Args:
        width: Features of a token, a multiple of `heads`.
        heads: Attention heads.
        mlp_width: Hidden units of the feed-forward network.
        dropout: Probability that a value is dropped, in [0, 1).
    """

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, mlp_width, dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, count, width) to tokens of the same shape."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class SelfAttention(nn.Module):
    """Attention of every token to all tokens (arXiv 1706.03762).

    Args:
        width: Features of a token, a multiple of `heads`.
        heads: Attention heads.
        dropout: Probability that an attention weight, or a value of the result, is dropped, in [0, 1).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)  # queries, keys and values, one above the other
        self.projection = nn.Linear(width, width)
        self.result_dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, count, width) to tokens of the same shape."""
        # (batch, count, 3 width) -> three of (batch, heads, count, width / heads)
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.result_dropout(self.projection(mixed.transpose(1, 2).flatten(2)))
