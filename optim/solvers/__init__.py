"""Inner solvers: descent gradients to updates within a spectral-norm budget, tangent to the Stiefel manifold if asked.

`SOLVERS[name].solve(gradient, weight, lr, budget)`; what is solved is stated in optim/solvers/problem.py.
"""

from optim.solvers import admm, dual_ascent, exact, frank_wolfe, none, quasi_newton, spectral_clip
from optim.solvers.problem import SolverResult
from optim.solvers.solver import SOLVERS, Solver
from optim.solvers.tangent import retract, tangent_projection

__all__ = [
    "SOLVERS",
    "Solver",
    "SolverResult",
    "admm",
    "dual_ascent",
    "exact",
    "frank_wolfe",
    "none",
    "quasi_newton",
    "retract",
    "spectral_clip",
    "tangent_projection",
]
