"""What an optimizer step changed, entry by entry."""

from torch import Tensor
from torch.optim import Optimizer

from diagnostics.updates import NamedParameters, StepWatcher


class ChangeRecorder(StepWatcher[dict[str, Tensor]]):
    """Keeps the changes themselves instead of their norms; see `StepWatcher` for the arguments."""

    @property
    def changes(self) -> dict[Optimizer, dict[str, Tensor]]:
        """Weights after minus weights before, by plain name, of the first wanted step of each since `clear`."""
        return self.records

    def record(self, optimizer: Optimizer, named: NamedParameters, changes: list[Tensor]) -> dict[str, Tensor]:
        """The changes by name."""
        return {name: change for (name, _), change in zip(named, changes, strict=True)}
