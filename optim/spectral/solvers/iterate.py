"""The loop of the iterative solvers: start, advance, certify now and then, stop each matrix at its own time."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest.optim.spectral.solvers.clip import INSIDE, normalized
from steepest.optim.spectral.solvers.problem import (
    Problem,
    SolverResult,
    SpectralProblem,
    State,
    TangentProblem,
    objective,
    relative_gap,
)
from steepest.optim.spectral.solvers.solver import LARGEST_THRESHOLD, TOLERANCE, Solver, tangent_part
from steepest.optim.spectral.solvers.tangent import TangentSpace

Iterate = dict[str, Tensor]


class Method(ABC):
    """An iterative method for one of the two problems; `Iterate` holds all it knows, batched, so lanes can leave.

    Attributes:
        check_every: Iterations between two certificates, where one costs about as much as an iteration.
    """

    check_every: ClassVar[int] = 1

    def initial_state(self, weight: Tensor) -> State:
        """Zeros of the shapes of its warm start, for tall matrices (..., m, n)."""
        return {}

    @abstractmethod
    def start(self, problem: Problem, state: State) -> Iterate:
        """The first iterate, from a warm start or, where that is zero, a cold one."""

    @abstractmethod
    def advance(self, problem: Problem, iterate: Iterate) -> Iterate:
        """The next iterate."""

    @abstractmethod
    def candidate(self, problem: Problem, iterate: Iterate) -> tuple[Tensor, Tensor]:
        """An approximate solution, which need not be feasible, and a lower bound of the minimum."""

    def keep(self, problem: Problem, iterate: Iterate) -> State:
        """The warm start for the next call."""
        return {}


class IterativeSolver(Solver):
    """A solver made of a method for (P) and one for (T), both run until the relative duality gap is small.

    Attributes:
        plain: Its method for (P).
        tangential: Its method for (T), or None.
        default_iterations: Iterations after which it stops in any case.
    """

    plain: ClassVar[Method]
    tangential: ClassVar[Method | None] = None
    default_iterations: ClassVar[int] = 100

    def initial_state(self, weight: Tensor, *, tangent: bool = False) -> State:
        """Tensors for the first call, all zero: a cold start."""
        tall = weight if weight.shape[-2] >= weight.shape[-1] else weight.mT
        method = self.tangential if tangent else self.plain
        return method.initial_state(tall) if method is not None else {}

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
        tolerance = TOLERANCE[gradient.dtype] if tolerance is None else tolerance
        limit = self.default_iterations if max_iterations is None else max_iterations
        unit, scale = normalized(gradient)
        threshold = (budget / lr / scale).nan_to_num(LARGEST_THRESHOLD).clamp(max=LARGEST_THRESHOLD)
        if tangent and self.tangential is not None:
            space = TangentSpace.at(weight)
            unit, scale = tangent_part(unit, space), scale + 0 * normalized(weight)[1]
            problem, mean = TangentProblem.of(unit, threshold, space)
            run = _run(self.tangential, problem, tolerance, limit, state)
            points = run.points
        else:
            problem, mean = SpectralProblem.of(unit, threshold)
            run = _run(self.plain, problem, tolerance, limit, state)
            points = problem.matrices(run.points)
        update = budget * INSIDE[gradient.dtype] * points
        if not math.isinf(lr):
            # Where the budget is inactive the update is that of `none`, to the last bit in (P).
            step = -lr * (unit * scale[:, None, None] if tangent else gradient)
            update = torch.where((problem.norm <= problem.threshold)[:, None, None], step, update)
        unknown = 0 * scale
        return SolverResult(
            update + unknown[:, None, None],
            run.iterations,
            primal_objective=run.primal * (budget * mean) * scale,
            duality_gap=relative_gap(run.primal, run.dual) + unknown,
            state=run.state,
        )


@dataclass
class _Run:
    """What a method has found so far for each member of the batch."""

    points: Tensor
    primal: Tensor
    dual: Tensor
    iterations: Tensor
    state: State


def _run(method: Method, problem: Problem, tolerance: float, limit: int, state: State) -> _Run:
    points, started = problem.start(), {name: value.clone() for name, value in state.items()}
    steps = torch.zeros_like(problem.dual, dtype=torch.long)
    found = _Run(points, objective(problem, points), problem.dual.clone(), steps, started)
    lanes = torch.arange(len(steps), device=steps.device)
    going = relative_gap(found.primal, found.dual) > tolerance
    lanes, problem, iterate = lanes[going], problem.select(going), {k: v[going] for k, v in state.items()}
    for iteration in range(limit + 1):
        if not len(lanes):
            break
        iterate = method.advance(problem, iterate) if iteration else method.start(problem, iterate)
        if iteration % method.check_every and iteration < limit:
            continue
        _take_up(found, lanes, method, problem, iterate)
        found.iterations[lanes] = iteration
        going = relative_gap(found.primal[lanes], found.dual[lanes]) > tolerance
        lanes, problem, iterate = lanes[going], problem.select(going), {k: v[going] for k, v in iterate.items()}
    return found


def _take_up(found: _Run, lanes: Tensor, method: Method, problem: Problem, iterate: Iterate) -> None:
    """Keep the best feasible point and the best bound so far, and the latest state."""
    candidate, bound = method.candidate(problem, iterate)
    candidate = problem.feasible(candidate)
    primal = objective(problem, candidate)
    better = primal < found.primal[lanes]
    found.points[lanes[better]], found.primal[lanes[better]] = candidate[better], primal[better]
    found.dual[lanes] = torch.maximum(found.dual[lanes], bound)
    for name, value in method.keep(problem, iterate).items():
        found.state[name][lanes] = value
