"""Gradient norms and update ratios of every parameter over a run, in bounded memory."""

from torch import Tensor

from diagnostics.gradient_flow import GradientFlow
from diagnostics.layer_history import LayerHistory


class FlowHistory(LayerHistory):
    """Samples of the gradient flow by optimizer step; see `LayerHistory`.

    Args:
        max_rows: Most samples to keep, at least 2; 2,000 samples of 60 parameters take one megabyte.
    """

    def __init__(self, max_rows: int = 2000) -> None:
        super().__init__(("gradient_norms", "update_ratios"), max_rows)

    def append(self, step: int, flow: GradientFlow) -> None:
        """Add a sample."""
        self.add(step, flow.names, {"gradient_norms": flow.gradient_norms, "update_ratios": flow.update_ratios})

    @property
    def gradient_norms(self) -> Tensor:
        """Shape (steps, names)."""
        return self["gradient_norms"]

    @property
    def update_ratios(self) -> Tensor:
        """Shape (steps, names)."""
        return self["update_ratios"]
