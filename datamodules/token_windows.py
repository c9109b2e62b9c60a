"""Windows of a stream of tokens as samples: inputs, and the same moved on by one token as targets."""

import torch
from torch import Tensor

IGNORED = -100
"""Target of a place that is not to be predicted: the value that PyTorch's cross-entropy leaves out."""


class TrainingWindows:
    """A stream cut into windows that do not overlap, at another place in each epoch, as a `BatchSource`.

    A sample is a window of block_size + 1 tokens: all but the last are inputs, all but the first are targets. In each
    epoch nearly every token is a target once, and over the epochs in every place of a window.

    Args:
        tokens: The stream, any integer type, of shape (tokens,).
        block_size: Inputs of a window, at least 1.
        shift: Whether the first window starts at a random place, drawn for each epoch; otherwise at the first token.
        what: What the tokens are, for messages.

    Raises:
        ValueError: If the stream is shorter than a window.
    """

    def __init__(self, tokens: Tensor, block_size: int, shift: bool = True, what: str = "the text") -> None:
        _check_length(tokens, block_size, what)
        self._windows = tokens.unfold(0, block_size + 1, 1)  # a view: every window there is, at every place
        self._block_size = block_size
        self._shift = shift
        self._count = max((len(tokens) - block_size) // block_size, 1)
        self._free = len(tokens) - self._count * block_size  # places where the first window can start

    def __len__(self) -> int:
        return self._count

    def draw(self, count: int, generator: torch.Generator, epoch: int) -> Tensor:
        """Return the place of the epoch's first window, once for every sample: a view of shape (count,)."""
        first = torch.randint(self._free, (1,), generator=generator) if self._shift else torch.zeros(1).long()
        return first.expand(count)

    def gather(self, indices: Tensor, parameters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, int64 of shape (samples, block_size)."""
        places = indices * self._block_size if parameters is None else indices * self._block_size + parameters
        windows = self._windows.index_select(0, places).long()
        return windows[:, :-1], windows[:, 1:]


class EvaluationWindows:
    """A stream cut into windows such that each token but the first is a target exactly once, as a `BatchSource`.

    The last window is moved back to end with the stream; targets that another window has are `IGNORED` in it.

    Args:
        tokens: The stream, any integer type, of shape (tokens,).
        block_size: Inputs of a window, at least 1.
        what: What the tokens are, for messages.

    Raises:
        ValueError: If the stream is shorter than a window.
    """

    def __init__(self, tokens: Tensor, block_size: int, what: str = "the text") -> None:
        _check_length(tokens, block_size, what)
        self._windows = tokens.unfold(0, block_size + 1, 1)
        self._block_size = block_size
        self._targets = len(tokens) - 1

    def __len__(self) -> int:
        return -(-self._targets // self._block_size)

    def draw(self, count: int, generator: torch.Generator, epoch: int) -> None:
        """Draw nothing."""
        return None

    def gather(self, indices: Tensor, parameters: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, int64 of shape (samples, block_size)."""
        wanted = indices * self._block_size
        places = wanted.clamp(max=self._targets - self._block_size)
        windows = self._windows.index_select(0, places).long()
        inputs, targets = windows[:, :-1], windows[:, 1:]
        seen = torch.arange(self._block_size) < (wanted - places).unsqueeze(1)
        return inputs, targets.masked_fill(seen, IGNORED)


def _check_length(tokens: Tensor, block_size: int, what: str) -> None:
    if len(tokens) <= block_size:
        raise ValueError(
            f"block_size {block_size} needs {block_size + 1} tokens, {what} has only {len(tokens)}: lower block_size "
            "or take more text"
        )
