"""ADMM, the alternating direction method of multipliers: between the tangent space and the spectral ball."""

import torch
from torch import Tensor

from steepest.optim.spectral.solvers.clip import saturated
from steepest.optim.spectral.solvers.iterate import Iterate, IterativeSolver, Method
from steepest.optim.spectral.solvers.problem import Problem, State, lanes
from steepest.optim.spectral.solvers.solver import register_solver

# Measured on Gaussian and ill-conditioned gradients of mean singular value 1: over-relaxation saves a third of the
# iterations, and balancing the residuals gains nothing over these penalties.
RELAXATION = 1.6
# (P): 1 / lr in units of the gradient is best; it only must not vanish in the linear limit.
SMALLEST_PENALTY = 1e-3
# (T): within a factor of two of the best one from the linear limit up to where 1 / lr takes over.
TANGENT_PENALTY = 2.0


class Splitting(Method):
    """D = Z with D tangent and Z in the ball, U the scaled multiplier; `pull` is D + U before it is clipped to Z.

    D <- project(penalty (Z - U) - Ĝ) / (penalty + threshold), Z <- clip(D + U), U <- U + D - Z, with D over-relaxed.
    """

    def initial_state(self, weight: Tensor) -> State:
        """What the last iterations added to their cold start: one number per singular value."""
        return {"gain": torch.zeros_like(weight[..., 0, :])}

    def start(self, problem: Problem, state: State) -> Iterate:
        """The cold start for this gradient, and what iterations added to the last one: it changes slowly."""
        cold = self.cold_start(problem)
        pull = cold + state["gain"]
        return {"pull": pull, "point": problem.clip(pull), "cold": cold}

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
        return {"pull": pull, "point": problem.clip(pull), "cold": iterate["cold"]}

    def candidate(self, problem: Problem, iterate: Iterate) -> tuple[Tensor, Tensor]:
        """Z, in the ball at every iteration and tangent in the end, and the bound at the multiplier of the ball."""
        pull, point = iterate["pull"], iterate["point"]
        return point, problem.lower_bound(self.penalty(problem) * (pull - point))

    def keep(self, problem: Problem, iterate: Iterate) -> State:
        """The pull holds both Z and U."""
        return {"gain": iterate["pull"] - iterate["cold"]}

    def penalty(self, problem: Problem) -> Tensor:
        """Weight of the distance between D and Z, shaped to multiply them."""
        return lanes(problem.threshold.clamp(min=SMALLEST_PENALTY), problem.gradient)


class TangentialSplitting(Splitting):
    """The same for (T), which is where it is of use: each step alone is in closed form, both together are not."""

    check_every = 4

    def initial_state(self, weight: Tensor) -> State:
        """The same as a tall matrix."""
        return {"gain": torch.zeros_like(weight)}

    def cold_start(self, problem: Problem) -> Tensor:
        """The solution without tangency, -clip(Ĝ / threshold), and its multiplier: exact at once for square W."""
        point = -saturated(problem.gradient, problem.threshold)[0]
        multiplier = -(problem.gradient + lanes(problem.threshold, point) * point)
        return point + multiplier / self.penalty(problem)

    def penalty(self, problem: Problem) -> Tensor:
        """Weight of the distance between D and Z, shaped to multiply them."""
        return lanes(problem.threshold.clamp(min=TANGENT_PENALTY), problem.gradient)


@register_solver
class Admm(IterativeSolver):
    """Splits the constraints: tangent parts and clipping in turn (ADMM); the robust choice with tangency."""

    name = "admm"
    plain = Splitting()
    tangential = TangentialSplitting()
