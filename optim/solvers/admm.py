"""ADMM, the alternating direction method of multipliers: between the tangent space and the spectral ball."""

import torch
from torch import Tensor

from optim.solvers.clip import saturated
from optim.solvers.iterate import Iterate, IterativeSolver, Method
from optim.solvers.problem import Problem, State, lanes
from optim.solvers.solver import register_solver

# For gradients of mean singular value 1. Measured on Gaussian and ill-conditioned gradients, tall ones of 48 to 64
# columns: the penalty is within a factor of two of the best, over-relaxation saves a third of the iterations and
# balancing the residuals gains nothing.
PENALTY = 2.0
RELAXATION = 1.6
import os
PEN=float(os.environ.get("PEN","2"))


class Splitting(Method):
    """D = Z with D tangent and Z in the ball, U the scaled multiplier; `pull` is D + U before it is clipped to Z.

    D <- project(penalty (Z - U) - Ĝ) / (penalty + threshold), Z <- clip(D + U), U <- U + D - Z, with D over-relaxed.
    """

    def initial_state(self, weight: Tensor) -> State:
        """The last pull: one number per singular value."""
        return {"pull": torch.zeros_like(weight[..., 0, :])}

    def start(self, problem: Problem, state: State) -> Iterate:
        """The last pull, or that of a cold start."""
        pull = state["pull"]
        cold = (pull == 0).flatten(1).all(1)
        pull = torch.where(lanes(cold, pull), self.cold_start(problem), pull)
        return {"pull": pull, "point": problem.clip(pull)}

    def cold_start(self, problem: Problem) -> Tensor:
        """Zero."""
        return torch.zeros_like(problem.gradient)

    def advance(self, problem: Problem, iterate: Iterate) -> Iterate:
        """One sweep."""
        pull, point = iterate["pull"], iterate["point"]
        penalty = self.penalty(problem)
        free = problem.project(penalty * (2 * point - pull) - problem.gradient)
        free = free / (penalty + lanes(problem.threshold, free))
        pull = pull + RELAXATION * (free - point)
        return {"pull": pull, "point": problem.clip(pull)}

    def candidate(self, problem: Problem, iterate: Iterate) -> tuple[Tensor, Tensor]:
        """Z, in the ball at every iteration and tangent in the end, and the bound at the multiplier of the ball."""
        pull, point = iterate["pull"], iterate["point"]
        return point, problem.lower_bound(self.penalty(problem) * (pull - point))

    def keep(self, problem: Problem, iterate: Iterate) -> State:
        """The pull holds both Z and U."""
        return {"pull": iterate["pull"]}

    def penalty(self, problem: Problem) -> Tensor:
        return lanes(problem.threshold.clamp(min=PEN), problem.gradient)


class TangentialSplitting(Splitting):
    """The same for (T), which is where it is of use: each step alone is in closed form, both together are not."""

    check_every = 4

    def initial_state(self, weight: Tensor) -> State:
        """The last pull: a tall matrix."""
        return {"pull": torch.zeros_like(weight)}

    def cold_start(self, problem: Problem) -> Tensor:
        """The solution without tangency, -clip(Ĝ / threshold), and its multiplier: exact at once for square W."""
        point = -saturated(problem.gradient, problem.threshold)[0]
        multiplier = -(problem.gradient + lanes(problem.threshold, point) * point)
        return point + multiplier / self.penalty(problem)

    def penalty(self, problem: Problem) -> Tensor:
        return lanes(problem.threshold.clamp(min=PENALTY), problem.gradient)


@register_solver
class Admm(IterativeSolver):
    """Splits the constraints: tangent parts and clipping in turn (ADMM); the robust choice with tangency."""

    name = "admm"
    plain = Splitting()
    tangential = TangentialSplitting()
