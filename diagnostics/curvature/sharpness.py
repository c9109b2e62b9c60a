"""How sharp the loss is where the optimizer stands, and how near that is to where its steps become unstable."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.common.history import History
from steepest.diagnostics.curvature.lanczos import (
    Density,
    Eigenpairs,
    Estimate,
    largest_eigenvalues,
    spectral_density,
    trace,
)
from steepest.diagnostics.curvature.limits import LinearSteps
from steepest.diagnostics.curvature.operator import Curvature

NOISE = 0.1  # of the start's length: the gradient alone may be at right angles to the leading eigenvector


@dataclass(frozen=True)
class Sharpness:
    """One measurement; what was not asked for, or is not defined, is None.

    Attributes:
        loss: On the probe batch.
        gradient_norm: Euclidean.
        eigenvalues: The largest ones of the curvature matrix, largest first.
        residuals: Of each of them: |Hv - value v|.
        products: Curvature-vector products taken in all.
        converged: Whether all eigenvalues stood still to the tolerance.
        threshold: The largest stable value of `preconditioned`.
        preconditioned: Largest eigenvalue of the curvature as the optimizer sees it: scaled by its preconditioner
            and its groups' learning rates, with coupled weight decay. For plain gradient descent it is the sharpness.
        ratio: preconditioned / threshold: above 1 a step overshoots further each time.
        directional_ratio: -u'Hu / 2g'u for the real update u: at 1 the quadratic model predicts that the step gains
            nothing, above that it climbs; negative if the step goes uphill from the start. An alarm, not a distance.
        rise: L(w + r g/|g|) - L(w), the sharpness of SAM (arXiv 2010.01412).
        trace: The sum of all eigenvalues, with its standard error.
        density: How all eigenvalues are spread.
    """

    loss: float
    gradient_norm: float
    eigenvalues: tuple[float, ...]
    residuals: tuple[float, ...]
    products: int
    converged: bool
    threshold: float | None = None
    preconditioned: float | None = None
    ratio: float | None = None
    directional_ratio: float | None = None
    rise: float | None = None
    trace: Estimate | None = None
    density: Density | None = None


def measure_sharpness(
    curvature: Curvature,
    *,
    count: int = 1,
    tolerance: float = 0.01,
    max_products: int | None = None,
    step: LinearSteps | None = None,
    update: Tensor | None = None,
    radius: float | None = None,
    trace_probes: int = 0,
    density_probes: int = 0,
    seed: int = 0,
) -> Sharpness:
    """Measure sharpness and what goes with it.

    Args:
        curvature: Of the loss at the weights from which the step was taken.
        count: How many eigenvalues, at least 1.
        tolerance: Relative change at which the search for eigenvalues stops.
        max_products: Largest number of products for each search; None as in `largest_eigenvalues`.
        step: What `linear_steps` says of the optimizers; None leaves out what depends on it.
        update: The change of the weights the optimizer made, as one vector; None leaves out the directional ratio.
        radius: Distance along the gradient of the `rise`, above 0; None leaves it out.
        trace_probes: Products for the trace, at least 2; 0 leaves it out.
        density_probes: Random vectors for the density, with 20 products each; 0 leaves it out.
        seed: Of all random vectors.

    Raises:
        FloatingPointError: if something is not finite.
        ValueError: if a number is out of range.
    """
    if radius is not None and not radius > 0:
        raise ValueError(f"the radius must be above 0, got {radius}")
    generator = torch.Generator().manual_seed(seed)
    gradient = curvature.gradient
    leading = largest_eigenvalues(
        curvature.product, _start(curvature, gradient, generator), count, tolerance, max_products, False, generator
    )
    threshold = preconditioned = ratio = None
    converged = leading.converged
    if step is not None:
        pair = _preconditioned(curvature, step, leading, generator, tolerance, max_products)
        ratio, threshold = pair.values[0], step.threshold
        preconditioned = ratio * threshold if math.isfinite(threshold) else None
        converged = converged and pair.converged
    directional = None
    if update is not None:
        descent = float(torch.dot(gradient, update))
        bend = float(torch.dot(update, curvature.product(update)))
        directional = -bend / (2 * descent) if descent else None
    sum_of_eigenvalues = trace(curvature.product, gradient, trace_probes, generator) if trace_probes else None
    spread = spectral_density(curvature.product, gradient, density_probes, generator) if density_probes else None
    norm = float(torch.linalg.vector_norm(gradient))
    rise = None
    if radius is not None and norm > 0:
        rise = curvature.loss_at(gradient * (radius / norm)) - curvature.loss
    return Sharpness(
        loss=curvature.loss,
        gradient_norm=norm,
        eigenvalues=leading.values,
        residuals=leading.residuals,
        products=curvature.products,
        converged=converged,
        threshold=threshold,
        preconditioned=preconditioned,
        ratio=ratio,
        directional_ratio=directional,
        rise=rise,
        trace=sum_of_eigenvalues,
        density=spread,
    )


def _preconditioned(
    curvature: Curvature,
    step: LinearSteps,
    leading: Eigenpairs,
    generator: torch.Generator,
    tolerance: float,
    max_products: int | None,
) -> Eigenpairs:
    """The largest eigenvalue of S (H + decay) S, whose threshold is 1."""
    if step.plain:
        value = float(step.rates[0]) * (leading.values[0] + step.decays[0])
        return Eigenpairs((value,), (0.0,), None, 0, leading.converged)
    scale, decay = step.scale(curvature.parameters), step.decay(curvature.parameters)
    if not scale.any():
        return Eigenpairs((0.0,), (0.0,), None, 0, True)

    def product(vector: Tensor) -> Tensor:
        moved = scale * vector
        return scale * (curvature.product(moved) + decay * moved)

    start = _start(curvature, scale * curvature.gradient, generator)
    return largest_eigenvalues(product, start, 1, tolerance, max_products, vectors=False)


def _start(curvature: Curvature, gradient: Tensor, generator: torch.Generator) -> Tensor:
    """The gradient's direction with a little noise; the same on all ranks."""
    norm = torch.linalg.vector_norm(gradient)
    noise = curvature.random(generator)
    noise = noise / torch.linalg.vector_norm(noise)
    return gradient / norm + NOISE * noise if norm > 0 else noise


# Of a `History` of measurements.
FIELDS = (
    "loss", "gradient_norm", "products", "threshold", "preconditioned", "ratio", "directional_ratio", "rise", "trace",
    "trace_error",
)  # fmt: skip


def numbers_of(sharpness: Sharpness) -> dict[str, float | None]:
    """A measurement by `FIELDS`, and "eigenvalue_1", the largest, "eigenvalue_2" and so on; None: not measured."""
    trace = sharpness.trace
    sums = {"trace": None, "trace_error": None} if trace is None else {"trace": trace.value, "trace_error": trace.error}
    eigenvalues = {f"eigenvalue_{place}": value for place, value in enumerate(sharpness.eigenvalues, 1)}
    return {**{field: getattr(sharpness, field) for field in FIELDS[:-2]}, **sums, **eigenvalues}


def eigenvalues_of(history: History) -> Tensor:
    """Shape (steps, count), largest first; NaN where fewer were measured."""
    count = sum(field.startswith("eigenvalue_") for field in history.fields)
    columns = [history[f"eigenvalue_{place}"] for place in range(1, count + 1)]
    return torch.stack(columns, dim=1) if columns else torch.empty(len(history), 0, dtype=torch.float64)


def history_table(history: History) -> dict[str, Any]:
    """Everything as plain lists, the eigenvalues of a step in one of them."""
    columns = {field: history[field].tolist() for field in FIELDS}
    return {"steps": list(history.steps), "eigenvalues": eigenvalues_of(history).tolist(), **columns}
