"""Ascent on the dual problem."""

import torch
from torch import Tensor

from steepest.optim.spectral.solvers.dual import SMOOTHING, dual_at, level_at, points_at, settled
from steepest.optim.spectral.solvers.iterate import Iterate, IterativeSolver, Method
from steepest.optim.spectral.solvers.problem import Problem, State, TangentProblem, inner, lanes
from steepest.optim.spectral.solvers.solver import register_solver

# Step as a fraction of one over the curvature met between the last two points, and its largest growth per iteration
# (arXiv 1910.09529). It is far longer than one over the largest possible curvature, which takes ten times as many.
STEP_FRACTION = 0.7
STEP_GROWTH = 2.0


class LevelAscent(Method):
    """(P): the multiplier of |D|_2 <= budget climbs by the dual gradient over the dual's local curvature."""

    def initial_state(self, weight: Tensor) -> State:
        """The last multiplier."""
        return {"multiplier": torch.zeros_like(weight[..., 0, 0])}

    def start(self, problem: Problem, state: State) -> Iterate:
        """The last multiplier, within its bounds."""
        return {"multiplier": torch.minimum(state["multiplier"], problem.gradient.sum(-1))}

    def advance(self, problem: Problem, iterate: Iterate) -> Iterate:
        """The level is convex and piecewise linear in the multiplier: this ends after finitely many steps."""
        level, count = level_at(problem.gradient, iterate["multiplier"])
        multiplier = iterate["multiplier"] + count * (level - problem.threshold)
        return {"multiplier": multiplier.clamp(min=0)}

    def candidate(self, problem: Problem, iterate: Iterate) -> tuple[Tensor, Tensor]:
        """The singular values cut to the level of the multiplier."""
        return points_at(problem, level_at(problem.gradient, iterate["multiplier"])[0]), problem.dual

    def keep(self, problem: Problem, iterate: Iterate) -> State:
        """The multiplier."""
        return iterate


class AcceleratedAscent(Method):
    """(T): Nesterov's accelerated ascent over normal matrices (FISTA), its momentum restarted when it leads astray."""

    check_every = 4

    def initial_state(self, weight: Tensor) -> State:
        """The last symmetric multiplier, (n, n), without the part that makes Ĝ tangent."""
        return {"multiplier": torch.zeros_like(weight.mT @ weight)}

    def start(self, problem: TangentProblem, state: State) -> Iterate:  # type: ignore[override]
        """The last multiplier at the new W; zero is the cold start."""
        coordinates = problem.space.from_multiplier(state["multiplier"])
        threshold = problem.threshold.clamp(min=SMOOTHING)
        point = dual_at(problem, coordinates, threshold)
        return {
            "coordinates": coordinates,
            "ahead": coordinates,
            "pace": torch.ones_like(threshold),
            "step": threshold,
            "threshold": threshold,
            **point,
        }

    def advance(self, problem: TangentProblem, iterate: Iterate) -> Iterate:  # type: ignore[override]
        """A gradient step from the look-ahead point, then the next such point."""
        slope, sharpen = iterate["slope"], settled(iterate) & (iterate["threshold"] > problem.threshold)
        coordinates = iterate["ahead"] - lanes(iterate["step"], slope) * slope
        move = coordinates - iterate["coordinates"]
        restart = (inner(slope, move) > 0) | sharpen
        pace = torch.where(restart, 1.0, iterate["pace"])
        next_pace = (1 + (1 + 4 * pace.square()).sqrt()) / 2
        ahead = coordinates + lanes(torch.where(restart, 0.0, (pace - 1) / next_pace), move) * move

        threshold = torch.where(sharpen, iterate["threshold"] / 2, iterate["threshold"])
        threshold = torch.maximum(threshold, problem.threshold)
        point = dual_at(problem, ahead, threshold)
        moved = torch.linalg.matrix_norm(ahead - iterate["ahead"])
        changed = torch.linalg.matrix_norm(point["slope"] - slope).clamp(min=torch.finfo(slope.dtype).tiny)
        step = torch.minimum(STEP_FRACTION * moved / changed, STEP_GROWTH * iterate["step"])
        return {
            "coordinates": coordinates,
            "ahead": ahead,
            "pace": next_pace,
            "step": torch.maximum(step, threshold),
            "threshold": threshold,
            **point,
        }

    def candidate(self, problem: Problem, iterate: Iterate) -> tuple[Tensor, Tensor]:
        """The minimizer of the Lagrangian, and the dual value."""
        return iterate["update"], iterate["bound"]

    def keep(self, problem: TangentProblem, iterate: Iterate) -> State:  # type: ignore[override]
        """The multiplier of the point last evaluated."""
        return {"multiplier": problem.space.multiplier(iterate["ahead"])}


@register_solver
class DualAscent(IterativeSolver):
    """Gradient ascent on the multipliers of the constraints, accelerated with tangency."""

    name = "dual_ascent"
    plain = LevelAscent()
    tangential = AcceleratedAscent()
