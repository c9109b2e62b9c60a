"""Singular values of every matrix over a run, in bounded memory."""

from diagnostics.layer_history import LayerHistory
from diagnostics.spectral_sample import SpectralSample

FIELDS = ("norms", "operator_norms", "stable_ranks", "conditions", "update_norms", "update_stable_ranks")


class SpectralHistory(LayerHistory):
    """Samples by optimizer step; see `LayerHistory`.

    Args:
        max_rows: Most samples to keep, at least 2; 2,000 samples of 60 matrices take three megabytes.
    """

    def __init__(self, max_rows: int = 2000) -> None:
        super().__init__(FIELDS, max_rows)

    def append(self, step: int, sample: SpectralSample) -> None:
        """Add a sample.

        Raises:
            ValueError: if it is one of other matrices.
        """
        if self.names and list(sample.names) != self.names:
            missing = sorted(set(self.names) ^ set(sample.names))
            raise ValueError(f"the matrices have changed since the first measurement: {', '.join(missing[:3])}")
        self.add(step, sample.names, {field: getattr(sample, field) for field in FIELDS})
