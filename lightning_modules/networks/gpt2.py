"""GPT-2: a transformer that predicts the next token (Radford et al. 2019)."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.lightning_modules.networks.checks import check_dropout, check_size, scaled_width
from steepest.lightning_modules.networks.width_scaling import Parametrization, check_parametrization, scale_to_width

__all__ = ["GPT2"]

Attention = Literal["fused", "math"]

INITIAL_STD = 0.02


class GPT2(nn.Module):
    """Pre-norm transformer with causal attention and learned positions, as GPT-2 and nanoGPT have it.

    The layers are called `token_embedding`, `position_embedding`, `blocks.0.attention.qkv` and so on, `final_norm`,
    `head`. Tokens of shape (batch, length), at most `block_size` long, become scores of the next token at each
    place, of shape (batch, length, vocabulary_size). The defaults are GPT-2's smallest size: 124,439,808 parameters.

    Weights start normal with deviation 0.02, those of the two layers of each block that add to the residual stream with
    0.02 / sqrt(2 * layers) (GPT-2's report, section 2.3); biases start at 0.

    Args:
        vocabulary_size: Number of different tokens, at least 1.
        block_size: Longest sequence, in tokens, at least 1.
        layers: Number of blocks, at least 1.
        heads: Attention heads of each block, a divisor of `width`.
        width: Size of the residual stream; the hidden layer of each block has four times as many units.
        width_mult: Multiplies the number of heads (rounded, at least 1), and with it the width: heads keep their size.
        dropout: Probability that an embedding, an attention weight or an output of a block's two parts is dropped, in
            [0, 1).
        bias: Whether linear layers and layer normalizations have biases. nanoGPT leaves them out.
        tied: Whether the output layer's weight is the table of token embeddings (arXiv 1608.05859).
        attention: "fused" takes PyTorch's fastest kernel. "math" writes attention out in elementary operations, which
            every kind of differentiation goes through and which needs memory for length x length weights.
        parametrization: "mup" keeps the best learning rate where it is at `width_mult` 1 (arXiv 2203.03466): start and
            learning rates of wider networks are scaled, and with a tied output layer its scores are divided by how much
            wider the network is. Attention needs no other scale, as heads keep their size.

    Raises:
        ValueError: if an argument is out of range or a sequence longer than `block_size`.
    """

    def __init__(
        self,
        vocabulary_size: int = 50257,
        block_size: int = 1024,
        layers: int = 12,
        heads: int = 12,
        width: int = 768,
        width_mult: float = 1.0,
        dropout: float = 0.0,
        bias: bool = True,
        tied: bool = True,
        attention: Attention = "fused",
        parametrization: Parametrization = "standard",
    ) -> None:
        super().__init__()
        check_parametrization(parametrization)
        sizes = {"vocabulary_size": vocabulary_size, "block_size": block_size, "layers": layers, "heads": heads}
        for name, size in {**sizes, "width": width}.items():
            check_size(name, size)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got width {width} and {heads} heads")
        check_dropout(dropout)
        if attention not in get_args(Attention):
            raise ValueError(f"attention {attention!r} is unknown; allowed: {', '.join(get_args(Attention))}")
        head_size, base_heads, base_width = width // heads, heads, width
        heads = scaled_width(heads, width_mult)
        width = head_size * heads

        self.block_size = block_size
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.position_embedding = nn.Embedding(block_size, width)
        self.embedding_dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, bias, attention) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width, bias=bias)
        self.head = nn.Linear(width, vocabulary_size, bias=False)
        self._initialize(layers)
        if tied:
            self.head.weight = self.token_embedding.weight
        # The table's deviation and learning rate are those of an input, which an output of this width is too large for.
        self.score_divisor = width / base_width if tied and parametrization == "mup" else 1.0
        if parametrization == "mup":
            with torch.device("meta"):  # only the shapes are needed
                base = GPT2(vocabulary_size, block_size, layers, base_heads, base_width, bias=bias, tied=tied)
            scale_to_width(self, base, constant_deviation=True)

    def _initialize(self, layers: int) -> None:
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                adds_to_residual = name.endswith((".attention.output", ".mlp.output"))
                std = INITIAL_STD / math.sqrt(2 * layers) if adds_to_residual else INITIAL_STD
                nn.init.normal_(layer.weight, std=std)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, length) to scores of the next token (batch, length, vocabulary_size)."""
        length = tokens.shape[1]
        if length > self.block_size:
            raise ValueError(f"a sequence of {length} tokens is longer than block_size {self.block_size}")
        positions = torch.arange(length, device=tokens.device)
        stream = self.embedding_dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        for block in self.blocks:
            stream = block(stream)
        stream = self.final_norm(stream)
        # Before the output layer: its scores are many more numbers than its inputs.
        return self.head(stream if self.score_divisor == 1 else stream / self.score_divisor)


class Block(nn.Module):
    """Attention and a two-layer network with GELU, each added to the residual stream behind a layer normalization.

    Args:
        width: Size of the residual stream.
        heads: Attention heads, a divisor of the width.
        dropout: See `GPT2`.
        bias: See `GPT2`.
        attention: See `GPT2`.
    """

    def __init__(self, width: int, heads: int, dropout: float, bias: bool, attention: Attention) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, bias=bias)
        self.attention = CausalSelfAttention(width, heads, dropout, bias, attention)
        self.mlp_norm = nn.LayerNorm(width, bias=bias)
        self.mlp = FeedForward(width, dropout, bias)

    def forward(self, stream: Tensor) -> Tensor:
        """Residual stream (batch, length, width) to the next block's."""
        stream = stream + self.attention(self.attention_norm(stream))
        return stream + self.mlp(self.mlp_norm(stream))


class FeedForward(nn.Module):
    """A hidden layer of four times the width, with GELU in GPT-2's tanh form (arXiv 1606.08415).

    Args:
        width: Size of the residual stream.
        dropout: See `GPT2`.
        bias: See `GPT2`.
    """

    def __init__(self, width: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width, bias=bias)
        self.gelu = nn.GELU(approximate="tanh")
        self.output = nn.Linear(4 * width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor) -> Tensor:
        """(batch, length, width) to the same shape."""
        return self.dropout(self.output(self.gelu(self.hidden(stream))))


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a place sees itself and what stands before it (arXiv 1706.03762).

    Args:
        width: Size of the residual stream.
        heads: Number of heads, a divisor of the width.
        dropout: See `GPT2`.
        bias: See `GPT2`.
        attention: See `GPT2`.
    """

    def __init__(self, width: int, heads: int, dropout: float, bias: bool, attention: Attention) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.kernel = attention
        # The matrices of queries, keys and values on top of each other.
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)
        self.output_dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor) -> Tensor:
        """(batch, length, width) to the same shape."""
        batch, length, width = stream.shape
        by_head = self.qkv(stream).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = by_head.permute(2, 0, 3, 1, 4).unbind(0)  # each (batch, heads, length, head size)
        dropout = self.dropout if self.training else 0.0
        if self.kernel == "fused":
            mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        else:
            mixed = _causal_attention(query, key, value, dropout)
        return self.output_dropout(self.output(mixed.transpose(1, 2).reshape(batch, length, width)))


def _causal_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """The same as `scaled_dot_product_attention`, in elementary operations."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return functional.dropout(weights, dropout) @ value
