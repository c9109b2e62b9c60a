"""Checks that every part of a study file needs."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any


def check_keys(content: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    """Refuse a key that is not allowed.

    Raises:
        ValueError: naming the key, the nearest allowed one, and all of them.
    """
    for key in content:
        if key not in allowed:
            raise ValueError(f"{where}: unknown key {key!r}{meant(str(key), allowed)}; allowed: {', '.join(allowed)}")


def meant(word: str, allowed: Collection[str]) -> str:
    """A question that names the allowed word nearest to `word`, or nothing."""
    nearest = difflib.get_close_matches(word, list(allowed), n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def read_seeds(value: Any, where: str) -> tuple[int, ...]:
    """Seeds: a number n for 0 to n-1, or a list.

    Raises:
        ValueError: if there is none, one is there twice, or one is no whole number from 0.
    """
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ValueError(f"{where} must be a number of seeds above 0, or a list of different ones, got {value!r}")
    return tuple(seeds)


def read_number(value: Any, where: str, above: float = float("-inf")) -> float:
    """A finite number above a limit.

    Raises:
        ValueError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < float("inf"):
        limit = f" above {above:g}" if above > float("-inf") else ""
        raise ValueError(f"{where} must be a number{limit}, got {value!r}")
    return float(value)
