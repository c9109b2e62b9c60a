"""No solver: the budget is ignored."""

from torch import Tensor

from steepest.optim.spectral.solvers.problem import SolverResult, State
from steepest.optim.spectral.solvers.solver import Solver, no_iterations, register_solver
from steepest.optim.spectral.solvers.tangent import tangent_projection


@register_solver
class NoSolver(Solver):
    """Plain descent, D = -lr * G, whatever the budget; `residual` says by what fraction it is exceeded."""

    name = "none"
    exact = False

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
        step = tangent_projection(gradient, weight) if tangent else gradient
        return SolverResult(-lr * step, no_iterations(gradient), state=state)
