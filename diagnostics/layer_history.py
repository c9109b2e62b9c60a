"""Numbers of every layer over a run, in bounded memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diagnostics.thinned_rows import ThinnedRows


class LayerHistory(ThinnedRows[Tensor]):
    """Samples by optimizer step, each some fields of every layer.

    Layers and fields may
    come and go between samples (unfreezing, several optimizers): what was not measured is NaN.

    Args:
        fields: Names of the fields there are in any case.
        max_rows: Most samples to keep, at least 2; 2,000 samples of 60 layers and 2 fields take one megabyte.

    Attributes:
        names: Names of the layers, the columns; the newest sample's first.
        fields: Names of the fields.
        steps: Optimizer step of every sample, ascending.

    Raises:
        ValueError: if `max_rows` is below 2.
    """

    def __init__(self, fields: Sequence[str] = (), max_rows: int = 2000) -> None:
        super().__init__(max_rows)
        self.fields = list(fields)
        self.names: list[str] = []

    def add(self, step: int, names: Sequence[str], values: Mapping[str, Sequence[float] | None]) -> None:
        """Add a sample.

        Args:
            step: Optimizer step.
            names: The layers of the sample.
            values: One number per layer for each field; None where a field was not measured.
        """
        self._align(list(names), [field for field in values if field not in self.fields])
        row = torch.full((len(self.fields), len(self.names)), torch.nan)
        for field, numbers in values.items():
            if numbers is not None:
                row[self.fields.index(field), : len(names)] = torch.tensor(numbers)
        self._keep(step, row)

    def __getitem__(self, field: str) -> Tensor:
        """One field, of shape (steps, names); NaN where it was not measured."""
        if field not in self.fields:
            return torch.full((len(self), len(self.names)), torch.nan)
        place = self.fields.index(field)
        return torch.stack([row[place] for row in self._rows]) if self._rows else torch.empty(0, len(self.names))

    def table(self) -> dict[str, Any]:
        """Names, steps and fields as plain lists."""
        columns = {field: self[field].tolist() for field in self.fields}
        return {"names": list(self.names), "steps": list(self.steps), **columns}

    def state_dict(self) -> dict[str, Any]:
        """Names, fields, steps and one tensor of shape (steps, fields, names)."""
        names = {"names": list(self.names), "fields": list(self.fields)}
        return {**names, "steps": list(self.steps), "rows": self._table}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.names, self.fields, self.steps = list(state["names"]), list(state["fields"]), list(state["steps"])
        self._rows = list(state["rows"].cpu().unbind(0))

    @property
    def _table(self) -> Tensor:
        return torch.stack(self._rows) if self._rows else torch.empty(0, len(self.fields), len(self.names))

    def _align(self, names: list[str], new_fields: list[str]) -> None:
        if names == self.names[: len(names)] and not new_fields:
            return
        known = set(names)
        merged = names + [name for name in self.names if name not in known]
        places = torch.tensor([merged.index(name) for name in self.names], dtype=torch.long)
        kept = len(self.fields)
        self.fields += new_fields
        for index, row in enumerate(self._rows):
            self._rows[index] = torch.full((len(self.fields), len(merged)), torch.nan)
            self._rows[index][:kept, places] = row
        self.names = merged
