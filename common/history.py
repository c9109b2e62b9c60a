"""Samples by optimizer step over a run, in bounded memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Values = Mapping[str, float | Sequence[float] | None]


class History:
    """Samples by optimizer step; above `max_rows` every second one is dropped, so that the whole run stays covered.

    A field is a single number in float64, or one number for each layer in float32. Fields and layers may come and go
    between samples (unfreezing, several optimizers): what was not measured is NaN.

    Args:
        fields: Names of the fields there are in any case.
        by_layer: Whether a field is one number for each layer.
        max_rows: Most samples to keep, at least 2; 2,000 samples of 60 layers and 2 fields take one megabyte.

    Attributes:
        names: Names of the layers, the newest sample's first; the empty name alone where there are none.
        fields: Names of the fields.
        steps: Optimizer step of every sample, ascending.

    Raises:
        ValueError: if `max_rows` is below 2.
    """

    def __init__(self, fields: Sequence[str] = (), by_layer: bool = False, max_rows: int = 2000) -> None:
        if max_rows < 2:
            raise ValueError(f"max_rows must be at least 2, got {max_rows}")
        self.fields = list(fields)
        self.by_layer = by_layer
        self.max_rows = max_rows
        self.names: list[str] = [] if by_layer else [""]
        self.steps: list[int] = []
        self._rows: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.steps)

    def append(self, step: int, sample: Any) -> None:
        """Add a sample by layer: an object whose attributes are called `names` and as the fields."""
        self.add(step, {field: getattr(sample, field) for field in self.fields}, sample.names)

    def add(self, step: int, values: Values, names: Sequence[str] = ("",)) -> None:
        """Add a sample.

        Args:
            step: Optimizer step.
            values: A number, or one for each layer, by field; None where a field was not measured.
            names: The layers of the sample.
        """
        self._align(list(names), [field for field in values if field not in self.fields])
        row = self._empty()
        for field, numbers in values.items():
            if numbers is not None:
                row[self.fields.index(field), : len(names)] = torch.tensor(numbers, dtype=row.dtype)
        self.steps.append(step)
        self._rows.append(row)
        if len(self) > self.max_rows:
            # Counted from the newest, which always stays.
            self.steps = self.steps[::-2][::-1]
            self._rows = self._rows[::-2][::-1]

    def __getitem__(self, field: str) -> Tensor:
        """One field, of shape (steps, names) by layer, else (steps,); NaN where it was not measured."""
        unknown = torch.full((len(self), len(self.names)), torch.nan)
        table = self._table[:, self.fields.index(field)] if field in self.fields else unknown
        return table if self.by_layer else table[:, 0]

    def of(self, field: str, names: Sequence[str]) -> Tensor:
        """One field of these layers, of shape (steps, names)."""
        return self[field][:, [self.names.index(name) for name in names]]

    def table(self) -> dict[str, Any]:
        """Names of the layers, if there are any, steps and fields as plain lists."""
        names = {"names": list(self.names)} if self.by_layer else {}
        return {**names, "steps": list(self.steps), **{field: self[field].tolist() for field in self.fields}}

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
        return torch.stack(self._rows) if self._rows else self._empty()[None][:0]

    def _empty(self) -> Tensor:
        dtype = torch.float32 if self.by_layer else torch.float64
        return torch.full((len(self.fields), len(self.names)), torch.nan, dtype=dtype)

    def _align(self, names: list[str], new_fields: list[str]) -> None:
        if names == self.names[: len(names)] and not new_fields:
            return
        known = set(names)
        merged = names + [name for name in self.names if name not in known]
        places = torch.tensor([merged.index(name) for name in self.names], dtype=torch.long)
        kept = len(self.fields)
        self.fields += new_fields
        self.names = merged
        for index, row in enumerate(self._rows):
            self._rows[index] = self._empty()
            self._rows[index][:kept, places] = row
