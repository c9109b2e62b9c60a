"""Drawing text from a network that predicts the next token."""

import math

import torch
from torch import Tensor, nn


def check_sampling(temperature: float, top_k: int | None) -> None:
    """Refuse options of `generate` that are out of range.

    Raises:
        ValueError: with the value and what is allowed.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")


@torch.no_grad()
def generate(
    network: nn.Module,
    tokens: Tensor,
    length: int,
    *,
    block_size: int | None = None,
    vocabulary_size: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue sequences token by token.

    The network stays in the mode it is in: dropout is only off in evaluation mode. torch.compile is passed over, since
    it would compile anew for every length.

    Args:
        network: From tokens (batch, length) to scores (batch, length, vocabulary).
        tokens: Beginnings, int64 of shape (batch, at least 1), on the network's device.
        length: Number of tokens to add.
        block_size: Most tokens that the network sees; None for all.
        vocabulary_size: Only tokens below it are drawn; None for all. A network may have more rows than there are
            tokens.
        temperature: Divides the scores: below 1 likely tokens become likelier; 0 always takes the likeliest.
        top_k: Only the so many likeliest tokens are drawn; None for all.
        generator: Source of randomness, on the network's device; None takes PyTorch's global one.

    Returns:
        Beginnings and continuations, of shape (batch, tokens + length).

    Raises:
        ValueError: if an option is out of range.
    """
    check_sampling(temperature, top_k)
    for _ in range(length):
        seen = tokens if block_size is None else tokens[:, -block_size:]
        scores = network.forward(seen)[:, -1, :vocabulary_size].float()
        if temperature == 0:
            following = scores.argmax(-1, keepdim=True)
        else:
            scores = scores / temperature
            if top_k is not None and top_k < scores.shape[-1]:
                least = scores.topk(top_k).values[:, -1:]
                scores = scores.masked_fill(scores < least, -torch.inf)
            following = torch.multinomial(scores.softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, following], dim=1)
    return tokens
