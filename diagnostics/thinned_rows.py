"""Rows by optimizer step over a run, in bounded memory."""

from typing import Generic, TypeVar

Row = TypeVar("Row")


class ThinnedRows(Generic[Row]):
    """Rows by optimizer step; above `max_rows` every second one is dropped, so that the whole run stays covered.

    Args:
        max_rows: Most rows to keep, at least 2.

    Attributes:
        steps: Optimizer step of every row, ascending.

    Raises:
        ValueError: if `max_rows` is below 2.
    """

    def __init__(self, max_rows: int) -> None:
        if max_rows < 2:
            raise ValueError(f"max_rows must be at least 2, got {max_rows}")
        self.max_rows = max_rows
        self.steps: list[int] = []
        self._rows: list[Row] = []

    def __len__(self) -> int:
        return len(self.steps)

    def _keep(self, step: int, row: Row) -> None:
        self.steps.append(step)
        self._rows.append(row)
        if len(self) > self.max_rows:
            # Counted from the newest, which always stays.
            self.steps = self.steps[::-2][::-1]
            self._rows = self._rows[::-2][::-1]
