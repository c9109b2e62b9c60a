"""The dual problems: one number per matrix in (P), a symmetric matrix in (T). Two solvers differ in how they climb."""

import torch
from torch import Tensor

from steepest.optim.spectral.solvers.clip import saturated
from steepest.optim.spectral.solvers.problem import Problem, TangentProblem, dual_value

# In the linear limit the dual of (T) has kinks. It is smoothed down to this threshold, for a mean singular value of 1,
# and less as soon as that pays.
SMOOTHING = 0.1


def level_at(values: Tensor, multiplier: Tensor) -> tuple[Tensor, Tensor]:
    """The level t to which singular values are cut by a multiplier of the budget: sum of max(s - t, 0) = multiplier.

    That is what the proximal map of multiplier |.|_2 does: s minus its projection onto the l1 ball.

    Args:
        values: Singular values, shape (batch, n), from large to small.
        multiplier: Shape (batch,), in [0, sum of the values].

    Returns:
        The level, convex and falling in the multiplier, and how many singular values it cuts: minus one over its slope.
    """
    counts = torch.arange(1, values.shape[1] + 1, dtype=values.dtype, device=values.device)
    level, index = ((values.cumsum(-1) - multiplier[:, None]) / counts).max(-1)
    return level.clamp(min=0), index + 1


def points_at(problem: Problem, level: Tensor) -> Tensor:
    """Singular values of the update cut to a level, scaled into the ball: exact when the level is the threshold."""
    cut = torch.minimum(problem.gradient, level[:, None])
    highest = torch.maximum(level, problem.threshold)[:, None]
    return -torch.where(highest > 0, cut / highest, problem.gradient.sign())


def dual_at(problem: TangentProblem, coordinates: Tensor, threshold: Tensor) -> dict[str, Tensor]:
    """Evaluate the dual of (T), as a loss, at normal matrices N.

    In coordinates of normal matrices its curvature is at most 1 / threshold, whatever W.

    Args:
        problem: The problem.
        coordinates: Of N, shape (batch, n, n).
        threshold: At least the problem's own, above 0: a larger one smooths the dual, by at most
            n (threshold - own) / 2.

    Returns:
        "loss": sum of h(s_i(Ĝ + N)) with this threshold, to be minimized, shape (batch,); "slope": its gradient, shape
        (batch, n, n), zero where the update is tangent; "update": the minimizer of the Lagrangian,
        -clip((Ĝ + N) / threshold); "bound": the true dual value at N.
    """
    clipped, values = saturated(problem.gradient + problem.space.normal(coordinates), threshold)
    return {
        "loss": -dual_value(values, threshold),
        "slope": problem.space.coordinates(clipped),
        "update": -clipped,
        "bound": dual_value(values, problem.threshold),
    }


def settled(iterate: dict[str, Tensor]) -> Tensor:
    """Whether smoothing loses more than the distance from tangent does: then it is time to smooth less."""
    slope, update = torch.linalg.matrix_norm(iterate["slope"]), torch.linalg.matrix_norm(iterate["update"])
    return slope < iterate["threshold"] / 2 * update
