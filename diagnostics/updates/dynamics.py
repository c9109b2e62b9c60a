"""How an optimizer's updates relate to gradients, to weights and to each other, layer by layer.

With w the weights of a layer, g the gradient of the loss at them and dw what the optimizer adds to them (decay,
momentum, clipping and everything else included):

    effective learning rate          -<dw, g> / |g|^2           the multiple of the gradient that is in the update
    cosine to the gradient           -<dw, g> / (|dw| |g|)      1 for a step straight downhill, below 0 uphill
    relative size                    |dw| / |w|
    cosine with the previous update  <dw, dw'> / (|dw| |dw'|)   near 1 on a slope, below 0 in an oscillation

Gradient descent has an effective learning rate of lr and a cosine of 1; Adam's first step -lr sign(g) has lr |g|_1 /
|g|_2^2 and |g|_1 / (sqrt(n) |g|_2).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

import torch
from torch import Tensor

from steepest.diagnostics.gradient_flow.flow import Role, norms, stacked

FIELDS = ("effective_lr", "relative_size", "cosine_to_gradient", "cosine_to_previous")


@dataclass(frozen=True)
class DynamicsSample:
    """One optimizer step; every tuple has one entry per parameter tensor that had a gradient, in the module's order.

    Attributes:
        names: Plain parameter names.
        roles: "weight", "bias" or "scale".
        values: By field, the numbers of all parameters, NaN where there is none: `FIELDS`, drifts of subspaces, and
            what the optimizer told about its own step.
        totals: Of all parameters taken as one vector, the four of `FIELDS`.
    """

    names: tuple[str, ...]
    roles: tuple[Role, ...]
    values: dict[str, tuple[float, ...]]
    totals: dict[str, float] = field(default_factory=dict)


def products(
    changes: Sequence[Tensor],
    gradients: Sequence[Tensor],
    weight_norms: Tensor,
    previous: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """What the dynamics of a step are computed from, still on the device.

    Args:
        changes: What the step added to each parameter.
        gradients: Their gradients, of the same shapes; sparse ones are made dense.
        weight_norms: Euclidean norms of the parameters before the step, shape (parameters,).
        previous: What the step before added; None where that is not known.

    Returns:
        Shape (6, parameters): norms of change, gradient and weight, -<change, gradient>, norm of the previous change,
        <change, previous>; NaN where there is no previous change.
    """
    previous = [None] * len(changes) if previous is None else previous
    gradients = [gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients]
    known = [index for index, change in enumerate(previous) if change is not None]
    rows = torch.full((6, len(changes)), torch.nan, dtype=weight_norms.dtype, device=weight_norms.device)
    rows[0], rows[1], rows[2] = norms(changes), norms(gradients), weight_norms
    rows[3] = -stacked([_dot(change, gradient) for change, gradient in zip(changes, gradients, strict=True)])
    if known:
        before = [change for change in previous if change is not None]
        rows[4, known] = norms(before).to(rows)
        pairs = zip([changes[index] for index in known], before, strict=True)
        rows[5, known] = stacked([_dot(change, other) for change, other in pairs]).to(rows)
    return rows


def sample_of(
    names: Sequence[str],
    roles: Sequence[Role],
    columns: Sequence[Sequence[float]],
    others: Mapping[str, Mapping[str, float]],
) -> DynamicsSample:
    """The dynamics of a step.

    Args:
        names: Names of the parameters.
        roles: Their roles.
        columns: The column of `products` for each of them, on the host.
        others: Further numbers by field and name of the parameter, for some of the parameters.
    """
    measured = [_measures(*column) for column in columns]
    values = {field: tuple(column[place] for column in measured) for place, field in enumerate(FIELDS)}
    values |= {field: tuple(of.get(name, math.nan) for name in names) for field, of in others.items()}
    change, gradient, weight, downhill, previous, along = zip(*columns, strict=True)
    lengths = math.hypot(*change), math.hypot(*gradient), math.hypot(*weight)
    whole = _measures(*lengths, sum(downhill), math.hypot(*previous), sum(along))
    return DynamicsSample(tuple(names), tuple(roles), values, dict(zip(FIELDS, whole, strict=True)))


def _measures(
    change: float, gradient: float, weight: float, downhill: float, previous: float, along: float
) -> tuple[float, float, float, float]:
    return (
        _ratio(downhill, gradient * gradient),
        _ratio(change, weight),
        _ratio(downhill, change * gradient),
        _ratio(along, change * previous),
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator != 0.0 else math.nan


def _dot(one: Tensor, other: Tensor) -> Tensor:
    # Sums of 16-bit numbers need more than 16 bits; torch.sum adds in pairs, where torch.dot loses digits.
    wide = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    return (one.detach().to(wide) * other.detach().to(wide)).sum()


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
    for quantity, (name, kinds) in CHARTS.items():
        values = [sample.values[quantity][index] for index in compared] if quantity in sample.values else []
        known = [value for value in values if not math.isnan(value)]
        for kind in kinds:
            tag = f"update/{name}" if kind == "mean" else f"update/{name}_{kind}"
            found[tag] = ROLLUPS[kind](known) if known else math.nan
    return found
