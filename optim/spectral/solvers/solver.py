"""What all inner solvers share: one interface, one table of them, and certificates of what they return."""

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from steepest.optim.registry import unknown_name
from steepest.optim.spectral.solvers.clip import normalized, singular_values, spectral_norm
from steepest.optim.spectral.solvers.problem import SolverResult, State, dual_value, inner, relative_gap
from steepest.optim.spectral.solvers.tangent import TangentSpace, tangency_violation, tangent_projection

# Relative gaps that rounding lets every exact solver reach.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
# Above any singular value of a matrix whose largest entry is 1, its square far from overflow: the budget is inactive.
LARGEST_THRESHOLD = 1e15


class Solver(ABC):
    """Turns descent gradients into updates within a spectral-norm budget; holds no data.

    Attributes:
        name: Its name in `SOLVERS`.
        exact: Whether it converges to the solution of (P), and of (T) if it supports tangency.
        supports_tangency: Whether it can keep updates tangent to the Stiefel manifold.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    supports_tangency: ClassVar[bool] = True

    @property
    def summary(self) -> str:
        """First line of the docstring of its class."""
        return (type(self).__doc__ or "").splitlines()[0]

    def initial_state(self, weight: Tensor, *, tangent: bool = False) -> State:
        """Tensors for the first call, all zero: a cold start.

        Args:
            weight: One matrix (m, n) or a batch (batch, m, n): the state has the same leading dimensions.
            tangent: Whether the calls will ask for tangency.
        """
        return {}

    def solve(
        self,
        gradient: Tensor,
        weight: Tensor,
        lr: float,
        budget: float,
        *,
        tangent: bool = False,
        tolerance: float | None = None,
        max_iterations: int | None = None,
        state: State | None = None,
        certify: bool = True,
    ) -> SolverResult:
        """Compute the updates of equally shaped matrices, each on its own.

        Args:
            gradient: Descent gradients G, shape (batch, m, n), float32 or float64. A matrix with a number that is not
                finite gets an update of NaN.
            weight: The weights W, of the same shape and type; they matter for tangency only.
            lr: Learning rate, at least 0; infinite for the linear limit, which `none` does not have.
            budget: Largest spectral norm of an update, at least 0; infinite for no limit, unless `lr` is.
            tangent: Keep the updates tangent to the Stiefel manifold at W (at W^T, for wide W).
            tolerance: Relative duality gap at which an iterative solver stops, above 0; None for 1e-4 in float32 and
                1e-8 in float64. For `spectral_clip_fast`, the relative accuracy of its norm; None for 0.01.
            max_iterations: At least 0; None for the solver's own.
            state: The `state` of the last call on these matrices, or None for a cold start.
            certify: Compute objective, gap and residual also where they take decompositions of their own.

        Raises:
            ValueError: if an argument is out of range, or tangency is asked of a solver that has none.
        """
        _check(self, gradient, weight, lr, budget, tangent, tolerance, max_iterations)
        if gradient.shape[-2] < gradient.shape[-1]:
            options = {"tangent": tangent, "tolerance": tolerance, "max_iterations": max_iterations}
            result = self.solve(gradient.mT, weight.mT, lr, budget, **options, state=state, certify=certify)
            return replace(result, update=result.update.mT)
        state = self.initial_state(weight, tangent=tangent) if state is None else state
        if lr == 0 or budget == 0 or math.isinf(budget):
            result = SolverResult(_unlimited(gradient, weight, lr if budget else 0.0, tangent), no_iterations(gradient))
            result = replace(result, state=state)
        else:
            result = self._solve(
                gradient, weight, lr, budget, tangent=tangent, tolerance=tolerance, max_iterations=max_iterations,
                state=state,
            )  # fmt: skip
        return certified(result, gradient, weight, lr, budget, tangent) if certify else result

    @abstractmethod
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
        """As `solve`, for tall matrices, a positive `lr`, possibly infinite, and a positive, finite budget."""


class SolverTable(dict[str, Solver]):
    """Solvers by name; an unknown name is refused in one line that says what was probably meant."""

    def __missing__(self, name: str) -> Solver:
        raise ValueError(unknown_name("inner solver", name, sorted(self)))


SOLVERS = SolverTable()
AnySolver = TypeVar("AnySolver", bound=Solver)


def register_solver(solver: type[AnySolver]) -> type[AnySolver]:
    """Enter a solver into `SOLVERS` under its name; returns the class unchanged."""
    SOLVERS[solver.name] = solver()
    return solver


def certified(
    result: SolverResult, gradient: Tensor, weight: Tensor, lr: float, budget: float, tangent: bool
) -> SolverResult:
    """Fill in what a solver of tall matrices has left open of objective, gap and residual."""
    update = result.update
    violation = tangency_violation(update, weight) if tangent else torch.zeros_like(update[:, 0, 0])
    excess = (spectral_norm(update) / budget - 1).clamp(min=0) if budget > 0 else 0.0
    result = replace(result, residual=violation + excess)
    if result.primal_objective is not None:
        return result
    if lr == 0 or budget == 0:
        return replace(result, primal_objective=0 * violation, duality_gap=0 * violation)
    unit, scale = normalized(gradient)
    if math.isinf(budget):
        primal = scale * inner(unit, update) + inner(update, update) / (2 * lr)
        return replace(result, primal_objective=primal, duality_gap=0 * primal)
    if tangent:
        unit = tangent_part(unit, TangentSpace.at(weight))
    points, threshold = update / budget, (budget / lr / scale).clamp(max=LARGEST_THRESHOLD)
    primal = inner(unit, points) + threshold * inner(points, points) / 2
    gap = relative_gap(primal, dual_value(singular_values(unit), threshold))
    return replace(result, primal_objective=primal * scale * budget, duality_gap=gap)


def tangent_part(unit: Tensor, space: TangentSpace) -> Tensor:
    """The tangent parts of matrices, or zero for a normal matrix, of which only rounding errors are left."""
    tangent = space.project(unit)
    size, whole = torch.linalg.matrix_norm(tangent), torch.linalg.matrix_norm(unit)
    seen = size > 32 * torch.finfo(unit.dtype).eps * whole
    return torch.where(seen[:, None, None], tangent, 0.0)


def no_iterations(gradient: Tensor) -> Tensor:
    """The number of iterations of a closed form, for each matrix."""
    return torch.zeros(gradient.shape[0], dtype=torch.long, device=gradient.device)


def _unlimited(gradient: Tensor, weight: Tensor, lr: float, tangent: bool) -> Tensor:
    return -lr * (tangent_projection(gradient, weight) if tangent and lr > 0 else gradient)


def _check(
    solver: Solver,
    gradient: Tensor,
    weight: Tensor,
    lr: float,
    budget: float,
    tangent: bool,
    tolerance: float | None,
    max_iterations: int | None,
) -> None:
    if gradient.ndim != 3 or gradient.shape != weight.shape:
        raise ValueError(
            f"gradient and weight must have one shape (batch, m, n), not {tuple(gradient.shape)} and "
            f"{tuple(weight.shape)}"
        )
    if gradient.dtype not in TOLERANCE or weight.dtype != gradient.dtype:
        raise ValueError(
            f"gradient and weight must both be float32 or float64, not {gradient.dtype} and {weight.dtype}"
        )
    if not lr >= 0:
        raise ValueError(f"lr must be a number of at least 0, not {lr!r}")
    if not budget >= 0:
        raise ValueError(f"the spectral budget must be a number of at least 0, not {budget!r}")
    if math.isinf(lr) and (math.isinf(budget) or solver.name == "none"):
        raise ValueError("an infinite lr needs a finite spectral budget and an inner solver that enforces it")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance must be a number above 0, not {tolerance!r}")
    if max_iterations is not None and not (isinstance(max_iterations, int) and max_iterations >= 0):
        raise ValueError(f"max_iterations must be a whole number of at least 0, not {max_iterations!r}")
    if tangent and not solver.supports_tangency:
        able = ", ".join(name for name, other in sorted(SOLVERS.items()) if other.supports_tangency)
        raise ValueError(f"inner solver {solver.name!r} cannot keep updates tangent; those that can: {able}")
