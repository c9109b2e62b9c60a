"""Frank–Wolfe on the spectral ball (arXiv 1805.12591 surveys it): steps towards polar factors."""

import torch
from torch import Tensor

from steepest.optim.spectral.solvers.iterate import Iterate, IterativeSolver, Method
from steepest.optim.spectral.solvers.problem import Problem, State, inner
from steepest.optim.spectral.solvers.solver import register_solver


class ConditionalGradient(Method):
    """Steps to the atom -polar(R), R = Ĝ + threshold X the gradient at X, by exact line search."""

    def start(self, problem: Problem, state: State) -> Iterate:
        """Zero: no state is kept, so that the number of iterations leads from Muon's step to the clip."""
        return {"point": torch.zeros_like(problem.gradient)}

    def advance(self, problem: Problem, iterate: Iterate) -> Iterate:
        """One step; the linear minimization over the ball is a sign on singular values."""
        point = iterate["point"]
        slope = problem.gradient + problem.threshold[:, None] * point
        atom = -slope.sign()
        gap = inner(slope, point - atom)
        curvature = problem.threshold * (atom - point).square().sum(-1)
        fraction = torch.where(gap < curvature, gap / curvature, 1.0)
        return {"point": point + fraction[:, None] * (atom - point)}

    def candidate(self, problem: Problem, iterate: Iterate) -> tuple[Tensor, Tensor]:
        """The point; its gap is inner(slope, point - atom) at least, and the minimum itself is known."""
        return iterate["point"], problem.dual


@register_solver
class FrankWolfe(IterativeSolver):
    """Frank–Wolfe from zero: one iteration gives Muon's step, many give the exact clip; no tangency.

    One iteration is exactly Muon's step while lr * |G|_* >= budget * rank(G). The gap falls as one over the iterations.
    """

    name = "frank_wolfe"
    supports_tangency = False
    plain = ConditionalGradient()
