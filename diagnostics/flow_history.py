"""Gradient norms and update ratios of every parameter over a run, in bounded memory."""

from typing import Any

import torch
from torch import Tensor

from diagnostics.gradient_flow import GradientFlow


class FlowHistory:
    """Samples of the gradient flow by optimizer step.

    Above `max_rows` samples every second one is dropped, so that the whole run stays covered. Parameters may come and
    go between samples (unfreezing, several optimizers): where a parameter was not measured the value is NaN.

    Args:
        max_rows: Most samples to keep, at least 2; 2,000 samples of 60 parameters take one megabyte.

    Attributes:
        names: Parameter names, the columns; the newest sample's first.
        steps: Optimizer step of every sample, ascending.
    """

    def __init__(self, max_rows: int = 2000) -> None:
        if max_rows < 2:
            raise ValueError(f"max_rows must be at least 2, got {max_rows}")
        self.max_rows = max_rows
        self.names: list[str] = []
        self.steps: list[int] = []
        self._rows: list[Tensor] = []  # each (2, names): gradient norms, update ratios

    def __len__(self) -> int:
        return len(self.steps)

    def append(self, step: int, flow: GradientFlow) -> None:
        """Add a sample."""
        self._align(list(flow.names))
        row = torch.full((2, len(self.names)), torch.nan)
        row[0, : len(flow.names)] = torch.tensor(flow.gradient_norms)
        if flow.update_ratios is not None:
            row[1, : len(flow.names)] = torch.tensor(flow.update_ratios)
        self.steps.append(step)
        self._rows.append(row)
        if len(self) > self.max_rows:
            # Counted from the newest, which always stays.
            self.steps = self.steps[::-2][::-1]
            self._rows = self._rows[::-2][::-1]

    @property
    def gradient_norms(self) -> Tensor:
        """Shape (steps, names)."""
        return self._field(0)

    @property
    def update_ratios(self) -> Tensor:
        """Shape (steps, names)."""
        return self._field(1)

    def table(self) -> dict[str, Any]:
        """Names, steps, gradient norms and update ratios as plain lists."""
        return {
            "names": self.names,
            "steps": self.steps,
            "gradient_norms": self.gradient_norms.tolist(),
            "update_ratios": self.update_ratios.tolist(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Names, steps and one tensor of shape (steps, 2, names)."""
        rows = torch.stack(self._rows) if self._rows else torch.empty(0, 2, len(self.names))
        return {"names": list(self.names), "steps": list(self.steps), "rows": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.names, self.steps = list(state["names"]), list(state["steps"])
        self._rows = list(state["rows"].cpu().unbind(0))

    def _field(self, index: int) -> Tensor:
        return torch.stack([row[index] for row in self._rows]) if self._rows else torch.empty(0, len(self.names))

    def _align(self, names: list[str]) -> None:
        if names == self.names[: len(names)]:
            return
        merged = names + [name for name in self.names if name not in set(names)]
        places = torch.tensor([merged.index(name) for name in self.names], dtype=torch.long)
        for index, row in enumerate(self._rows):
            self._rows[index] = torch.full((2, len(merged)), torch.nan).index_copy(1, places, row)
        self.names = merged
