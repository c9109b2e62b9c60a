"""Sharpness over a run, in bounded memory."""

import math
from typing import Any

import torch
from torch import Tensor

from diagnostics.sharpness import Sharpness
from diagnostics.thinned_rows import ThinnedRows

FIELDS = (
    "loss", "gradient_norm", "products", "threshold", "preconditioned", "ratio", "directional_ratio", "rise",
)  # fmt: skip


class SharpnessHistory(ThinnedRows[list[float]]):
    """Measurements by optimizer step, each the fields, trace and its error, then the eigenvalues; NaN: not measured.

    Args:
        max_rows: Most measurements to keep, at least 2.

    Attributes:
        steps: Optimizer step of every measurement, ascending.
    """

    def __init__(self, max_rows: int = 2000) -> None:
        super().__init__(max_rows)
        self._count = 0

    def append(self, step: int, sharpness: Sharpness) -> None:
        """Add a measurement."""
        fields = [getattr(sharpness, field) for field in FIELDS]
        fields += [None, None] if sharpness.trace is None else [sharpness.trace.value, sharpness.trace.error]
        row = [math.nan if value is None else float(value) for value in fields]
        self._count = max(self._count, len(sharpness.eigenvalues))
        self._keep(step, row + list(sharpness.eigenvalues))

    def __getitem__(self, field: str) -> list[float]:
        """One of the fields of `Sharpness` that are numbers, "trace" or "trace_error", at every step."""
        place = (*FIELDS, "trace", "trace_error").index(field)
        return [row[place] for row in self._rows]

    @property
    def eigenvalues(self) -> Tensor:
        """Shape (steps, count), largest first."""
        first = len(FIELDS) + 2
        table = torch.full((len(self), self._count), torch.nan, dtype=torch.float64)
        for index, row in enumerate(self._rows):
            table[index, : len(row) - first] = torch.tensor(row[first:], dtype=torch.float64)
        return table

    def table(self) -> dict[str, Any]:
        """Everything as plain lists."""
        columns = {field: self[field] for field in (*FIELDS, "trace", "trace_error")}
        return {"steps": self.steps, "eigenvalues": self.eigenvalues.tolist(), **columns}

    def state_dict(self) -> dict[str, Any]:
        """Steps and rows as plain lists."""
        return {"steps": list(self.steps), "rows": [list(row) for row in self._rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.steps, self._rows = list(state["steps"]), [list(row) for row in state["rows"]]
        self._count = max((len(row) - len(FIELDS) - 2 for row in self._rows), default=0)
