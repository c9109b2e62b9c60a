"""Quasi-Newton steps on the dual problem."""

import torch
from torch import Tensor

from steepest.optim.spectral.solvers.dual import SMOOTHING, dual_at, level_at, points_at, settled
from steepest.optim.spectral.solvers.iterate import Iterate, IterativeSolver, Method
from steepest.optim.spectral.solvers.problem import Problem, State, TangentProblem, inner, lanes
from steepest.optim.spectral.solvers.solver import register_solver

MEMORY = 8
# Armijo's condition asks for this fraction of the decrease that the slope promises.
SUFFICIENT = 1e-4
# A trial step cut below this makes way for a gradient step, which always decreases the loss.
SHORTEST = 1e-3


class LevelSecant(Method):
    """(P): the secant method on the slope of the dual, a convex function of one multiplier."""

    def initial_state(self, weight: Tensor) -> State:
        """The last multiplier."""
        return {"multiplier": torch.zeros_like(weight[..., 0, 0])}

    def start(self, problem: Problem, state: State) -> Iterate:
        """The last multiplier, within its bounds; at first its slope is taken for that of one singular value."""
        multiplier = torch.minimum(state["multiplier"], problem.gradient.sum(-1))
        level, _ = level_at(problem.gradient, multiplier)
        return {"multiplier": multiplier, "level": level, "rate": torch.ones_like(level)}

    def advance(self, problem: Problem, iterate: Iterate) -> Iterate:
        """A step by the slope between the last two points, which lies between -1 and -1 / n."""
        multiplier = iterate["multiplier"] + iterate["rate"] * (iterate["level"] - problem.threshold)
        multiplier = torch.minimum(multiplier.clamp(min=0), problem.gradient.sum(-1))
        level, _ = level_at(problem.gradient, multiplier)
        fall, rise = iterate["level"] - level, multiplier - iterate["multiplier"]
        rate = torch.where(fall != 0, rise / fall, iterate["rate"]).clamp(1, problem.gradient.shape[1])
        return {"multiplier": multiplier, "level": level, "rate": rate}

    def candidate(self, problem: Problem, iterate: Iterate) -> tuple[Tensor, Tensor]:
        """The singular values cut to the level of the multiplier."""
        return points_at(problem, iterate["level"]), problem.dual

    def keep(self, problem: Problem, iterate: Iterate) -> State:
        """The multiplier."""
        return {"multiplier": iterate["multiplier"]}


class LimitedMemory(Method):
    """(T): L-BFGS over normal matrices with Armijo's line search; one evaluation an iteration, each lane at its own."""

    check_every = 2

    def initial_state(self, weight: Tensor) -> State:
        """The last symmetric multiplier, (n, n), without the part that makes Ĝ tangent."""
        return {"multiplier": torch.zeros_like(weight.mT @ weight)}

    def start(self, problem: TangentProblem, state: State) -> Iterate:  # type: ignore[override]
        """The last multiplier at the new W; zero is the cold start."""
        coordinates = problem.space.from_multiplier(state["multiplier"])
        threshold = problem.threshold.clamp(min=SMOOTHING)
        point = dual_at(problem, coordinates, threshold)
        memory = coordinates.new_zeros(len(coordinates), MEMORY, *coordinates.shape[1:])
        return {
            "coordinates": coordinates,
            "direction": -lanes(threshold, coordinates) * point["slope"],
            "length": torch.ones_like(threshold),
            "moves": memory,
            "changes": memory,
            "threshold": threshold,
            **point,
        }

    def advance(self, problem: TangentProblem, iterate: Iterate) -> Iterate:  # type: ignore[override]
        """Evaluate one trial point; take it up and turn, or shorten the step."""
        direction, length = iterate["direction"], iterate["length"]
        move = lanes(length, direction) * direction
        trial = dual_at(problem, iterate["coordinates"] + move, iterate["threshold"])
        promised = inner(iterate["slope"], move)
        rounding = 10 * torch.finfo(move.dtype).eps * iterate["loss"].abs()
        taken = trial["loss"] <= iterate["loss"] + SUFFICIENT * promised + rounding

        change = trial["slope"] - iterate["slope"]
        curved = taken & (inner(move, change) > 1e-10 * inner(move, move))
        now = {name: torch.where(lanes(taken, value), value, iterate[name]) for name, value in trial.items()}
        now |= {
            "coordinates": iterate["coordinates"] + torch.where(lanes(taken, move), move, 0.0),
            "moves": _remember(iterate["moves"], move, curved),
            "changes": _remember(iterate["changes"], change, curved),
            "threshold": iterate["threshold"],
        }
        excess = (trial["loss"] - iterate["loss"] - promised).clamp(min=torch.finfo(move.dtype).tiny)
        shorter = length * (-promised / (2 * excess)).clamp(0.1, 0.5)
        now["length"] = torch.where(taken, 1.0, shorter)
        now["direction"] = torch.where(lanes(taken, move), _direction(now), direction)
        return self._freshened(problem, now, taken)

    def candidate(self, problem: Problem, iterate: Iterate) -> tuple[Tensor, Tensor]:
        """The minimizer of the Lagrangian, and the dual value."""
        return iterate["update"], iterate["bound"]

    def keep(self, problem: TangentProblem, iterate: Iterate) -> State:  # type: ignore[override]
        """The multiplier of the point last taken up."""
        return {"multiplier": problem.space.multiplier(iterate["coordinates"])}

    @staticmethod
    def _freshened(problem: TangentProblem, iterate: Iterate, taken: Tensor) -> Iterate:
        """Start anew from the gradient where the line search fails, and with less smoothing where that pays."""
        sharpen = taken & settled(iterate) & (iterate["threshold"] > problem.threshold)
        fresh = sharpen | (iterate["length"] < SHORTEST)
        threshold = torch.where(sharpen, iterate["threshold"] / 4, iterate["threshold"])
        threshold = torch.maximum(threshold, problem.threshold)
        steepest = -lanes(threshold, iterate["slope"]) * iterate["slope"]
        forgotten = lanes(~fresh, iterate["moves"])
        return iterate | {
            "threshold": threshold,
            # The loss is another function now: whatever its value at the next point, that is taken up.
            "loss": torch.where(sharpen, torch.inf, iterate["loss"]),
            "direction": torch.where(lanes(fresh, steepest), steepest, iterate["direction"]),
            "length": torch.where(fresh, 1.0, iterate["length"]),
            "moves": iterate["moves"] * forgotten,
            "changes": iterate["changes"] * forgotten,
        }


def _remember(memory: Tensor, entry: Tensor, wanted: Tensor) -> Tensor:
    return torch.where(lanes(wanted, memory), torch.cat([memory[:, 1:], entry[:, None]], dim=1), memory)


def _direction(iterate: Iterate) -> Tensor:
    """Minus the inverse Hessian, as the memory knows it, times the slope: the two-loop recursion."""
    moves, changes = iterate["moves"].unbind(1), iterate["changes"].unbind(1)
    products = [inner(move, change) for move, change in zip(moves, changes, strict=True)]
    # An empty entry is zero, so is its share.
    inverses = [torch.where(product > 0, 1 / product, 0.0) for product in products]
    direction, shares = -iterate["slope"], []
    for move, change, inverse in reversed(list(zip(moves, changes, inverses, strict=True))):
        share = inverse * inner(move, direction)
        shares.append(share)
        direction = direction - lanes(share, change) * change
    newest = inner(changes[-1], changes[-1])
    scale = torch.where(newest > 0, products[-1] / newest, iterate["threshold"])
    direction = lanes(scale, direction) * direction
    for move, change, inverse, share in zip(moves, changes, inverses, reversed(shares), strict=True):
        direction = direction + lanes(share - inverse * inner(change, direction), move) * move
    return direction


@register_solver
class QuasiNewton(IterativeSolver):
    """L-BFGS on the symmetric multiplier of tangency, the secant method on that of the budget."""

    name = "quasi_newton"
    plain = LevelSecant()
    tangential = LimitedMemory()
