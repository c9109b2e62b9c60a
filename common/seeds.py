"""Seeds for random draws that depend on where a run is, and on nothing that was drawn before."""

import random

import numpy
import torch


def mix(*values: int) -> int:
    """A seed of 64 bits that depends on all the values, in a microsecond."""
    # Multiply and shift, as splitmix64 does, so that neighbouring steps have unrelated seeds.
    state = 0
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state


def data_seed(*values: int, words: int = 1) -> int:
    """The same for data, by NumPy's own mixing: whoever has the seed and the epoch can draw an epoch's order again.

    Args:
        values: At least 0.
        words: How many words of 32 bits to take, 1 or 2.
    """
    seed = 0
    for word in numpy.random.SeedSequence(values).generate_state(words):
        seed = seed << 31 ^ int(word)
    return seed


def seed_all(seed: int, device: torch.device) -> None:
    """Seed PyTorch on the CPU and on this device, NumPy and Python."""
    # `torch.manual_seed` would visit every backend at 0.2 ms a call; the generators in use take a microsecond.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed & 0xFFFFFFFF)
