"""A share of a study's trials, for job arrays."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from steepest.study.plan import Trial


@dataclass(frozen=True)
class Shard:
    """Every `count`-th trial of a stage in the order of the keys, from the `index`-th.

    Attributes:
        index: Which share, counted from 1.
        count: Number of shares.
    """

    index: int
    count: int

    def share(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials of this share; the shares of all indices make up the whole."""
        mine = {trial.key for trial in sorted(trials, key=lambda trial: trial.key)[self.index - 1 :: self.count]}
        return [trial for trial in trials if trial.key in mine]


WHOLE = Shard(1, 1)


def parse_shard(text: str | None) -> Shard:
    """The share named by `i/n`; without one the whole.

    Raises:
        ValueError: if it is not of this form with 1 <= i <= n.
    """
    if text is None:
        return WHOLE
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard must be i/n with 1 <= i <= n, such as 2/8, got {text!r}")
    return Shard(int(match[1]), int(match[2]))
