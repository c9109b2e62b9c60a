"""Singular values of every matrix over a run, in bounded memory."""

from typing import Any

import torch
from torch import Tensor

from diagnostics.spectral_sample import SpectralSample

FIELDS = ("norms", "operator_norms", "stable_ranks", "conditions", "update_norms", "update_stable_ranks")


class SpectralHistory:
    """Samples by optimizer step.

    Above `max_rows` samples every second one is dropped, so that the whole run stays covered.

    Args:
        max_rows: Most samples to keep, at least 2; 2,000 samples of 60 matrices take three megabytes.

    Attributes:
        names: Parameter names, the columns.
        steps: Optimizer step of every sample, ascending.
    """

    def __init__(self, max_rows: int = 2000) -> None:
        if max_rows < 2:
            raise ValueError(f"max_rows must be at least 2, got {max_rows}")
        self.max_rows = max_rows
        self.names: tuple[str, ...] = ()
        self.steps: list[int] = []
        self._rows: list[Tensor] = []  # each (fields, names)

    def __len__(self) -> int:
        return len(self.steps)

    def append(self, step: int, sample: SpectralSample) -> None:
        """Add a sample.

        Raises:
            ValueError: if it is one of other matrices.
        """
        if self.names and sample.names != self.names:
            missing = sorted(set(self.names) ^ set(sample.names))
            raise ValueError(f"the matrices have changed since the first measurement: {', '.join(missing[:3])}")
        self.names = sample.names
        self.steps.append(step)
        self._rows.append(torch.tensor([getattr(sample, field) for field in FIELDS]))
        if len(self) > self.max_rows:
            # Counted from the newest, which always stays.
            self.steps = self.steps[::-2][::-1]
            self._rows = self._rows[::-2][::-1]

    def __getitem__(self, field: str) -> Tensor:
        """One of `FIELDS`, of shape (steps, names)."""
        return self._table[:, FIELDS.index(field)]

    def table(self) -> dict[str, Any]:
        """Names, steps and fields as plain lists."""
        return {"names": list(self.names), "steps": self.steps, **{field: self[field].tolist() for field in FIELDS}}

    def state_dict(self) -> dict[str, Any]:
        """Names, steps and one tensor of shape (steps, fields, names)."""
        return {"names": list(self.names), "steps": list(self.steps), "rows": self._table}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.names, self.steps = tuple(state["names"]), list(state["steps"])
        self._rows = list(state["rows"].cpu().unbind(0))

    @property
    def _table(self) -> Tensor:
        return torch.stack(self._rows) if self._rows else torch.empty(0, len(FIELDS), len(self.names))
