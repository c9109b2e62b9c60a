"""What an optimizer step changed, entry by entry."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from diagnostics.updates import UpdateRecorder


class ChangeRecorder(UpdateRecorder):
    """Keeps the changes themselves instead of their norms; see `UpdateRecorder` for the arguments.

    Attributes:
        changes: Weights after minus weights before, by plain name, of the first wanted step of each optimizer since
            the last `clear`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.changes: dict[Optimizer, dict[str, Tensor]] = {}

    def clear(self) -> None:
        """Forget what was recorded."""
        super().clear()
        self.changes.clear()

    def _before_step(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        if optimizer not in self.changes:
            super()._before_step(optimizer, _args, _kwargs)

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        if not self._before or optimizer not in self._before:
            return
        named, before = self._before.pop(optimizer)
        self.changes[optimizer] = {
            name: copy.neg_().add_(parameter.detach()) for copy, (name, parameter) in zip(before, named, strict=True)
        }
