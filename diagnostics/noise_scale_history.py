"""The gradient noise scale over a run, in bounded memory."""

from collections.abc import Mapping
from typing import Any

from diagnostics.noise_scale import NoiseSample, NoiseScale

FIELDS = ("scale", "low", "high", "gradient_square", "trace", "half_difference", "batch_size", "part_size")


class NoiseHistory:
    """Averages after each measurement, by optimizer step.

    Above `max_rows` rows every second one is dropped, so that the whole run stays covered.

    Args:
        max_rows: Most rows to keep, at least 2.

    Attributes:
        steps: Optimizer step of every row, ascending.
    """

    def __init__(self, max_rows: int = 2000) -> None:
        if max_rows < 2:
            raise ValueError(f"max_rows must be at least 2, got {max_rows}")
        self.max_rows = max_rows
        self.steps: list[int] = []
        self._rows: list[list[float]] = []

    def __len__(self) -> int:
        return len(self.steps)

    def append(self, step: int, sample: NoiseSample, result: NoiseScale) -> None:
        """Add a measurement and what the average says with it."""
        found = {**vars(sample), **vars(result)}  # the average's values of |G|² and tr(S)
        self.steps.append(step)
        self._rows.append([float(found[field]) for field in FIELDS])
        if len(self) > self.max_rows:
            # Counted from the newest, which always stays.
            self.steps = self.steps[::-2][::-1]
            self._rows = self._rows[::-2][::-1]

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
