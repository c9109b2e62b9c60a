"""One measurement of the singular values of a network's matrices, and of the optimizer's last update of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Kind = Literal["linear", "convolution", "other"]


@dataclass(frozen=True)
class SpectralSample:
    """Singular values of every matrix; every tuple has one entry per matrix, NaN where not measured.

    Attributes:
        names: Parameter names, in the module's order.
        kinds: "linear" and "convolution" for the weights of such layers, "other" for embeddings, attention, ...
        sizes: Shorter side of the matrix, the number of its singular values.
        norms: Largest singular value of the weight, of a convolution that of the flattened kernel.
        stable_ranks: Squared Frobenius norm over squared largest singular value, between 1 and `sizes`.
        conditions: Largest over smallest singular value; infinite above 1e7. Only known where all were computed.
        operator_norms: Largest singular value of a convolution as an operator on its real input size.
        update_norms: Largest singular value of the last update.
        update_stable_ranks: As `stable_ranks`, of the update.
        update_conditions: As `conditions`, of the update.
        drifts: Relative error of the fast method for `norms`, where it was compared.
        update_drifts: The same for `update_norms`.
        operator_drifts: The same for `operator_norms`.
        spectra: All singular values of the weights, descending, by name, where kept.
        update_spectra: The same of the updates.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    sizes: tuple[int, ...]
    norms: tuple[float, ...]
    stable_ranks: tuple[float, ...]
    conditions: tuple[float, ...]
    operator_norms: tuple[float, ...]
    update_norms: tuple[float, ...]
    update_stable_ranks: tuple[float, ...]
    update_conditions: tuple[float, ...]
    drifts: tuple[float, ...]
    update_drifts: tuple[float, ...]
    operator_drifts: tuple[float, ...]
    spectra: dict[str, list[float]] = field(default_factory=dict)
    update_spectra: dict[str, list[float]] = field(default_factory=dict)

    @property
    def relative_updates(self) -> tuple[float, ...]:
        """Largest singular value of the update over that of the weight after it."""
        pairs = zip(self.update_norms, self.norms, strict=True)
        return tuple(update / norm if norm > 0 else math.nan for update, norm in pairs)

    @property
    def log10_product(self) -> float:
        """Decimal logarithm of the product of the norms of all linear layers and convolutions (as operators).

        In a chain of such layers and activations of slope at most 1 it bounds how much the output changes with the
        input (arXiv 1706.08498). With normalization layers, residual branches or attention it is a number to follow,
        no bound. NaN if the norm of a convolution is not known.
        """
        factors = [
            operator if kind == "convolution" else norm
            for kind, norm, operator in zip(self.kinds, self.norms, self.operator_norms, strict=True)
            if kind != "other"
        ]
        if not factors or any(math.isnan(factor) for factor in factors):
            return math.nan
        return sum(math.log10(factor) if factor > 0 else -math.inf for factor in factors)

    @property
    def nonfinite(self) -> tuple[str, ...]:
        """Names of the weights with a NaN or infinite entry."""
        return tuple(name for name, norm in zip(self.names, self.norms, strict=True) if math.isnan(norm))

    def scalars(self) -> dict[str, float]:
        """A few numbers on all matrices, by tag; NaN where nothing was measured."""
        drifts = (*self.drifts, *self.operator_drifts)
        return {
            "spectral/norm_max": _over(self.norms, max),
            "spectral/norm_median": _over(self.norms, median),
            "spectral/operator_norm_max": _over(self.operator_norms, max),
            "spectral/log10_product": self.log10_product,
            "spectral/stable_rank_median": _over(self.stable_ranks, median),
            "spectral/stable_rank_min": _over(self.stable_ranks, min),
            "spectral/condition_max": _over(self.conditions, max) if not self._partly_known else math.nan,
            "spectral/update_norm_max": _over(self.update_norms, max),
            "spectral/relative_update_max": _over(self.relative_updates, max),
            "spectral/update_stable_rank_median": _over(self.update_stable_ranks, median),
            "spectral/drift_max": _over(drifts, max),
            "spectral/drift_median": _over(drifts, median),
            "spectral/update_drift_max": _over(self.update_drifts, max),
        }

    @property
    def _partly_known(self) -> bool:
        # Between exact measurements only small matrices are known: their maximum would jump up and down.
        return any(
            math.isnan(condition) and norm > 0 for condition, norm in zip(self.conditions, self.norms, strict=True)
        )


def _over(values: Sequence[float], function: Callable[[list[float]], float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return function(known) if known else math.nan
