"""A few numbers that stand for all layers of a sample of the update dynamics."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median

from diagnostics.update_dynamics import DynamicsSample

ROLLUPS: dict[str, Callable[[Sequence[float]], float]] = {"min": min, "median": median, "max": max, "mean": fmean}

# By field: the name in the tag, and which numbers over the layers. GradientFlowMonitor writes update/relative_size_max.
CHARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "effective_lr": ("effective_lr", ("min", "median", "max")),
    "relative_size": ("relative_size", ("min", "median")),
    "cosine_to_gradient": ("cosine_to_gradient", ("min", "median", "max")),
    "cosine_to_previous": ("cosine_to_previous", ("min", "median", "max")),
    "drift": ("subspace_drift", ("median", "max")),
    "drift_from_start": ("subspace_drift_from_start", ("median", "max")),
    # Inner solvers of the spectral budget.
    "iterations": ("solver_iterations", ("median", "max")),
    "relative_gap": ("solver_gap", ("median", "max")),
    "residual": ("solver_residual", ("max",)),
    "budget_used": ("budget_used", ("median", "max")),
    "budget_active": ("budget_active_layers", ("mean",)),
    # Muon.
    "frank_wolfe_residual": ("frank_wolfe_residual", ("min", "median", "max")),
    "orthogonality_error": ("orthogonality_error", ("max",)),
    # AutoSGM's filter; spreads and its own record of the update are for the file alone.
    "alpha_mean": ("alpha", ("min", "median", "max")),
    "r_mean": ("r", ("min", "median", "max")),
    "e_std": ("e", ("median", "max")),
    "not_contracting": ("not_contracting", ("mean", "max")),
}
TOTALS = ("effective_lr", "cosine_to_gradient", "cosine_to_previous")


def scalars(sample: DynamicsSample) -> dict[str, float]:
    """Numbers by tag: those of the whole network, and minimum, median and maximum over the layers' weights.

    Biases and scales count only if the network has no weights of two or more dimensions: biases start at zero, where a
    relative size says nothing. NaN where nothing was measured.
    """
    weights = [index for index, role in enumerate(sample.roles) if role == "weight"]
    compared = weights or list(range(len(sample.names)))
    found = {f"update/{field}": sample.totals[field] for field in TOTALS}
    for field, (name, kinds) in CHARTS.items():
        values = [sample.values[field][index] for index in compared] if field in sample.values else []
        known = [value for value in values if not math.isnan(value)]
        for kind in kinds:
            tag = f"update/{name}" if kind == "mean" else f"update/{name}_{kind}"
            found[tag] = ROLLUPS[kind](known) if known else math.nan
    return found
