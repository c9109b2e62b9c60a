"""Inner solvers: descent gradients to updates within a spectral-norm budget, tangent to the Stiefel manifold if asked.

`SOLVERS[name].solve(gradient, weight, lr, budget)`; what is solved is stated in optim/spectral/solvers/problem.py.
A solver is added by writing one module with a class under `@register_solver`.
"""

from steepest.common.discovery import import_modules
from steepest.optim.spectral.solvers.problem import SolverResult
from steepest.optim.spectral.solvers.solver import SOLVERS, Solver
from steepest.optim.spectral.solvers.tangent import retract, tangent_projection

import_modules("steepest.optim.spectral.solvers")

__all__ = ["SOLVERS", "Solver", "SolverResult", "retract", "tangent_projection"]
