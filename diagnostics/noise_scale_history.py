"""The gradient noise scale over a run, in bounded memory."""

from collections.abc import Mapping
from typing import Any

from diagnostics.noise_scale import NoiseSample, NoiseScale
from diagnostics.thinned_rows import ThinnedRows

FIELDS = ("scale", "low", "high", "gradient_square", "trace", "half_difference", "batch_size", "part_size")


class NoiseHistory(ThinnedRows[list[float]]):
    """Averages after each measurement, by optimizer step.

    Args:
        max_rows: Most rows to keep, at least 2.

    Attributes:
        steps: Optimizer step of every row, ascending.
    """

    def __init__(self, max_rows: int = 2000) -> None:
        super().__init__(max_rows)

    def append(self, step: int, sample: NoiseSample, result: NoiseScale) -> None:
        """Add a measurement and what the average says with it."""
        found = {**vars(sample), **vars(result)}  # the average's values of |G|² and tr(S)
        self._keep(step, [float(found[field]) for field in FIELDS])

    def __getitem__(self, field: str) -> list[float]:
        """One of `FIELDS`, a number for each step."""
        place = FIELDS.index(field)
        return [row[place] for row in self._rows]

    def table(self) -> dict[str, Any]:
        """Steps and fields as plain lists."""
        return {"steps": list(self.steps), **{field: self[field] for field in FIELDS}}

    def state_dict(self) -> dict[str, Any]:
        """As `table`."""
        return self.table()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.steps = list(state["steps"])
        self._rows = [list(row) for row in zip(*(state[field] for field in FIELDS), strict=True)]
