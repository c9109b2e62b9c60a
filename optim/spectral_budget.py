"""Steps of matrices held within a spectral-norm budget by an inner solver: what MuonSGD and MuonAdamW have in common.

The budget bounds the change that the gradient makes in one step; decoupled weight decay is applied beside it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from optim.algorithm import State, Statistics
from optim.checks import check_number
from optim.composite import split_by_dimensions
from optim.matrices import as_matrices, batches, check_matrices, from_matrices
from optim.orthogonalize import orthogonalize
from optim.registry import unknown_name
from optim.roles import ParameterRole
from optim.solvers import SOLVERS
from optim.solvers.clip import spectral_norm
from optim.solvers.problem import SolverResult

Retraction = Literal["none", "polar"]

BUDGET_DEFAULTS: Mapping[str, Any] = {
    # The weights of a new network have spectral norms of about 1 to 2: a tenth of that is a large step, which ordinary
    # training seldom asks for and a diverging one exceeds.
    "spectral_budget": 0.1,
    "inner_solver": "spectral_clip",
    "tangent": False,
    "retraction": "none",
    "tolerance": None,
    "max_iterations": None,
    "batch_elements": None,
}
# See optim/muon.py: beyond this size a matrix keeps an accelerator busy alone.
BATCH_ELEMENTS = 1 << 22
PREFIX = "solver_"  # of the solver's entries in the state of a parameter


def is_limited(group: Mapping[str, Any]) -> bool:
    """Whether a group's steps go through an inner solver at all."""
    return group["spectral_budget"] is not None and group["inner_solver"] != "none"


def check_budget(group: Mapping[str, Any]) -> None:
    """Refuse options of the budget that are out of range or do not go together.

    Raises:
        ValueError: naming the option.
    """
    budget, solver = group["spectral_budget"], SOLVERS[group["inner_solver"]]
    if budget is not None and budget != math.inf:
        check_number("spectral_budget", budget)
    if group["retraction"] not in get_args(Retraction):
        raise ValueError(unknown_name("retraction", group["retraction"], list(get_args(Retraction))))
    for option in ("tangent", "retraction"):
        if group[option] not in (False, "none") and not is_limited(group):
            raise ValueError(
                f"{option}={group[option]!r} needs an inner solver and a spectral_budget (.inf for no limit), not "
                f"inner_solver {group['inner_solver']!r} and spectral_budget {budget!r}"
            )
    if group["tangent"] and not solver.supports_tangency:
        able = ", ".join(name for name, other in sorted(SOLVERS.items()) if other.supports_tangency and name != "none")
        raise ValueError(f"inner solver {group['inner_solver']!r} has no tangency; these have: {able}")
    if group["tolerance"] is not None:
        check_number("tolerance", group["tolerance"], include_low=False)
    if group["max_iterations"] is not None:
        check_number("max_iterations", group["max_iterations"])
    if group["batch_elements"] is not None:
        check_number("batch_elements", group["batch_elements"])
    check_matrices(group)


def solver_state(weight: Tensor, group: Mapping[str, Any]) -> State:
    """Entries of the state of a parameter for the warm start of its solver."""
    if not is_limited(group):
        return {}
    matrices = as_matrices(weight, group.get("split", 1))
    state = SOLVERS[group["inner_solver"]].initial_state(matrices, tangent=group["tangent"])
    return {PREFIX + key: value for key, value in state.items()}


def take_limited_step(
    directions: Sequence[Tensor],
    weights: Sequence[Tensor],
    states: Sequence[State],
    group: Mapping[str, Any],
    statistics: Statistics | None,
    decay: float = 1.0,
) -> None:
    """Add to weights what the solver makes of descent directions; equal matrices are solved together on accelerators.

    Args:
        directions: Averaged, perhaps preconditioned gradients, in the shapes of the weights.
        weights: Changed in place.
        states: Their states, whose solver entries are replaced.
        group: The complete group.
        statistics: As in `Algorithm.update`; each gets "iterations", "relative_gap", "residual", "budget_used"
            (spectral norm of the change over the budget) and "budget_active" (0 or 1: whether without the budget the
            change would be larger), each the largest of a weight's matrices.
        decay: What the weights are multiplied by first.
    """
    solver, split = SOLVERS[group["inner_solver"]], group.get("split", 1)
    gradients = [as_matrices(direction, split) for direction in directions]
    points = [as_matrices(weight, split) for weight in weights]
    elements = group["batch_elements"]
    if elements is None:
        elements = 0 if gradients[0].device.type == "cpu" else BATCH_ELEMENTS
    for batch in batches(gradients, elements):
        keys = [key for key in states[batch[0]] if key.startswith(PREFIX)]
        gradient, point = _joined([gradients[index] for index in batch]), _joined([points[index] for index in batch])
        plain = surely_inactive(gradient, group)
        result = found = None
        if not plain or statistics is not None:
            warm = {key.removeprefix(PREFIX): _joined([states[index][key] for index in batch]) for key in keys}
            result = solver.solve(
                gradient,
                point,
                group["lr"],
                group["spectral_budget"],
                tangent=group["tangent"],
                tolerance=group["tolerance"],
                max_iterations=group["max_iterations"],
                state=warm or None,
                certify=statistics is not None,
            )
        if result is not None and statistics is not None:
            found = _measured(result, gradient, point, group)
        for place, index in enumerate(batch):
            part = slice(place * split, (place + 1) * split)
            if statistics is not None and found is not None:
                statistics[index] |= {key: values[part].amax() for key, values in found.items()}
            if decay != 1:
                weights[index].mul_(decay)
            if plain or result is None:
                # Whether or not statistics were asked for, and leaving the solver's state alone.
                weights[index].add_(directions[index], alpha=-group["lr"])
                continue
            weights[index].add_(from_matrices(result.update[part], weights[index]))
            for key in keys:
                # A copy, so that a checkpoint does not hold the whole batch once for each of its members.
                states[index][key].copy_(result.state[key.removeprefix(PREFIX)][part])


def surely_inactive(gradient: Tensor, group: Mapping[str, Any]) -> bool:
    """Whether the Frobenius norm, never below the spectral one, shows that plain descent is within the budget.

    Then no solver is needed. It is asked on a CPU only: an accelerator would have to wait for the answer.
    """
    lr, budget = group["lr"], group["spectral_budget"]
    if gradient.device.type != "cpu" or group["tangent"] or lr == 0:
        return False
    # A percent for the rounding of the sum; entries whose squares vanish are below the root of the smallest number.
    vanished = math.sqrt(gradient[0].numel() * torch.finfo(gradient.dtype).smallest_normal)
    largest = torch.linalg.vector_norm(gradient, dim=(-2, -1)).amax()
    return bool(1.01 * largest + vanished <= budget / lr)


def retract(weights: Sequence[Tensor], group: Mapping[str, Any]) -> None:
    """Bring weights back to the Stiefel manifold, in place, if the group asks for it: by their polar factors."""
    if group["retraction"] == "none" or group["lr"] == 0:  # 0 freezes the weights
        return
    for weight in weights:
        polar = orthogonalize(as_matrices(weight, group.get("split", 1)), "exact", dtype=weight.dtype)
        weight.copy_(from_matrices(polar, weight))


def route_of(algorithm: str, fallback: str) -> Any:
    """A route for `algorithm_groups`: all weights that mix features are limited, the rest takes the fallback."""

    def route(role: ParameterRole) -> tuple[str, str]:
        if role.role not in ("matrix", "input"):
            return fallback, f"{fallback}: the budget is for matrices inside the network"
        if role.role == "matrix" and role.parameter.ndim > 2 and role.parameter.shape[1] == 1:
            return fallback, f"{fallback}: a depth-wise kernel has one input channel, so its rows do not mix features"
        return algorithm, "within the spectral budget"

    return route


def groups_by_dimensions(
    params: Iterable[Any], algorithm: str, fallback: str, common: Mapping[str, Any], budget: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Groups of bare parameters: tensors of two or more dimensions are limited, the rest takes the fallback.

    Args:
        params: As any optimizer takes them; options of the budget in a group are for its matrices.
        algorithm: Algorithm of the matrices.
        fallback: Algorithm of the rest.
        common: Options of both.
        budget: Options of the matrices alone.
    """
    groups = split_by_dimensions(
        params, {**common, **budget, "algorithm": algorithm}, {**common, "algorithm": fallback}
    )
    matrices_only = {*BUDGET_DEFAULTS, "split"}
    return [
        {key: value for key, value in group.items() if group["algorithm"] == algorithm or key not in matrices_only}
        for group in groups
    ]


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _measured(result: SolverResult, gradient: Tensor, point: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
    """What is to be known of each matrix of a batch, from a certified result."""
    if result.duality_gap is None or result.residual is None:
        raise RuntimeError("the solver gave no certificate, though asked to")
    budget, solver = group["spectral_budget"], SOLVERS[group["inner_solver"]]
    unlimited = solver.solve(gradient, point, group["lr"], math.inf, tangent=group["tangent"], certify=False).update
    active = spectral_norm(unlimited) > budget
    return {
        "iterations": result.iterations,
        "relative_gap": result.duality_gap,
        "residual": result.residual,
        "budget_used": spectral_norm(result.update) / max(budget, torch.finfo(point.dtype).tiny),
        "budget_active": active.to(point.dtype),
    }
