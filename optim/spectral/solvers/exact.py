"""The solution of (P) in closed form."""

import math

import torch
from torch import Tensor

from steepest.optim.spectral.solvers.clip import INSIDE, normalized, saturated
from steepest.optim.spectral.solvers.problem import SolverResult, State
from steepest.optim.spectral.solvers.solver import Solver, no_iterations, register_solver


@register_solver
class Exact(Solver):
    """Singular values of lr * G cut at the budget: the solution of (P), SGD and Muon being its two limits.

    Through the Gram matrix where that is accurate, else by singular value decomposition: for a budget far below the
    largest singular value of an ill-conditioned gradient.
    """

    name = "exact"
    supports_tangency = False

    def _solve(
        self,
        gradient: Tensor,
        weight: Tensor,
        lr: float,
        budget: float,
        *,
        tangent: bool,
        tolerance: float | None,
        max_iterations: int | None,
        state: State,
    ) -> SolverResult:
        unit, scale = normalized(gradient)
        threshold = budget / lr / scale.nan_to_num(1.0)
        clipped, values = saturated(unit, threshold)
        update = -budget * INSIDE[gradient.dtype] * clipped
        if not math.isinf(lr):
            active = values[:, -1] > threshold
            update = torch.where(active[:, None, None], update, -lr * gradient)
        return SolverResult(update + 0 * scale[:, None, None], no_iterations(gradient), state=state)
