"""Steps of matrices held within a spectral-norm budget by an inner solver: what MuonSGD and MuonAdamW have in common.

The budget bounds the change that the gradient makes in one step; decoupled weight decay is applied beside it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.common import linear_step as linear
from steepest.common.linear_step import LinearStep
from steepest.optim.checks import check_number
from steepest.optim.core.algorithm import ALGORITHMS, Algorithm, State, Statistics, register_algorithm
from steepest.optim.core.algorithms import (
    AMSGradOptions,
    FusedAdamOptions,
    MomentumOptions,
    adam_state,
    adamw_step,
    average,
    check_adam,
    check_momentum,
    momentum_state,
    sgd_step,
)
from steepest.optim.core.composite import Composite, composite_of, split_by_dimensions
from steepest.optim.core.implementation import fastest
from steepest.optim.core.options import Options, SharedOptions
from steepest.optim.core.roles import ParameterRole
from steepest.optim.core.rounding import Rounding
from steepest.optim.registry import OPTIMIZERS, unknown_name
from steepest.optim.spectral.matrices import as_matrices, batches, check_matrices, from_matrices
from steepest.optim.spectral.orthogonalize import orthogonalize
from steepest.optim.spectral.solvers import SOLVERS
from steepest.optim.spectral.solvers.clip import spectral_norm
from steepest.optim.spectral.solvers.problem import SolverResult

Retraction = Literal["none", "polar"]

# See optim/spectral/muon.py: beyond this size a matrix keeps an accelerator busy alone.
BATCH_ELEMENTS = 1 << 22
PREFIX = "solver_"  # of the solver's entries in the state of a parameter


class BudgetOptions(Options):
    """The budget, and the solver that keeps it.

    Attributes:
        spectral_budget: Largest spectral norm of the change that the gradient makes in one step, at least 0. The
            default is about a tenth of that of new weights. None: the step without a budget, exactly.
        inner_solver: none, exact, spectral_clip, spectral_clip_fast, frank_wolfe, dual_ascent, quasi_newton or admm.
        tangent: Keep changes tangent to the matrices with orthonormal columns (rows, if wide): manifold Muon.
        retraction: "polar" replaces the matrices by their polar factors after each step, from the first on: start from
            orthogonal ones.
        tolerance: Relative duality gap at which an iterative solver stops; None: 1e-4 in float32, 1e-8 in float64.
        max_iterations: Largest number of its iterations; None: its own.
        batch_elements: Equal matrices are solved together up to this many elements; None: one by one on a CPU, 4
            million elsewhere.
    """

    # The weights of a new network have spectral norms of about 1 to 2: a tenth of that is a large step, which ordinary
    # training seldom asks for and a diverging one exceeds.
    spectral_budget: float | None = 0.1
    inner_solver: str = "spectral_clip"
    tangent: bool = False
    retraction: Retraction = "none"
    tolerance: float | None = None
    max_iterations: int | None = None
    batch_elements: int | None = None


class LimitedAdamOptions(FusedAdamOptions, BudgetOptions):
    """AdamW within a budget."""


class LimitedMomentumOptions(MomentumOptions, BudgetOptions):
    """SGD within a budget."""


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
    params: Iterable[Any], algorithm: str, fallback: str, common: Mapping[str, Any], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Groups of bare parameters: tensors of two or more dimensions are limited, the rest takes the fallback.

    Args:
        params: As any optimizer takes them; options of the budget in a group are for its matrices.
        algorithm: Algorithm of the matrices.
        fallback: Algorithm of the rest.
        common: Options that every algorithm has.
        options: Of the matrices; the fallback takes those that are not about the budget.
    """
    common = {**vars(ALGORITHMS[algorithm].options(**options)), **common}
    groups = split_by_dimensions(params, {**common, "algorithm": algorithm}, {**common, "algorithm": fallback})
    matrices_only = {*vars(BudgetOptions()), "split"}
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


@register_algorithm
class LimitedAdamW(Algorithm):
    """W <- (1 - lr weight_decay) W + D, where D minimizes <a, D> + |D|_F^2 / (2 lr) subject to |D|_2 <= budget.

    a is Adam's direction, the averaged gradient over the root of the averaged square, both with bias correction.
    """

    name = "muon_adamw"
    options = LimitedAdamOptions

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse options out of range and parameters that are not matrices."""
        check_adam(group)
        check_budget(group)

    def linear_step(self, group: Mapping[str, Any], state: State) -> LinearStep | None:
        """That of AdamW; within a budget there is none."""
        return None if is_limited(group) else linear.adam_step(group, state, decoupled=True)

    def initial_state(self, weight: Tensor, group: Mapping[str, Any]) -> State:
        """The state of AdamW, and the solver's warm start."""
        # Within a budget the bias correction is computed here, from a counter that the CPU can look at.
        counted = {**group, "fused": None} if is_limited(group) else group
        return {**adam_state(weight, counted), **solver_state(weight, group)}

    def update(
        self,
        group: Mapping[str, Any],
        weights: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        statistics: Statistics | None,
    ) -> None:
        """One step."""
        if not is_limited(group):
            adamw_step(group, weights, gradients, states)
            return
        directions = adam_directions(group, gradients, states)
        decay = 1 - group["lr"] * group["weight_decay"]
        take_limited_step(directions, weights, states, group, statistics, decay)
        retract(weights, group)


def adam_directions(group: Mapping[str, Any], gradients: list[Tensor], states: list[State]) -> list[Tensor]:
    """Take gradients up into Adam's moments, and return Adam's direction before the learning rate."""
    beta1, beta2 = group["betas"]
    first, second = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
    for state in states:
        state["step"] += 1
    steps = [state["step"].item() for state in states]  # on the CPU, see initial_state
    torch._foreach_lerp_(first, gradients, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
    if group["amsgrad"]:
        largest = [state["max_exp_avg_sq"] for state in states]
        torch._foreach_maximum_(largest, second)
        second = largest
    roots = torch._foreach_sqrt(second)
    torch._foreach_div_(roots, [(1 - beta2**step) ** 0.5 for step in steps])
    torch._foreach_add_(roots, group["eps"])
    directions = torch._foreach_div(first, roots)
    torch._foreach_div_(directions, [1 - beta1**step for step in steps])
    return list(directions)


class MuonAdamW(Composite):
    """AdamW whose changes of matrices obey a spectral-norm budget; for bare parameters.

    Tensors of two or more dimensions count as matrices, kernels flattened to out x rest; the rest takes plain AdamW.
    From a module, `muon_adamw` routes by role.

    Args:
        params: Tensors, pairs of name and tensor, or groups; a group's own options go before those given here.
        lr: Learning rate, at least 0.
        weight_decay: Decoupled decay, at least 0, as in torch.optim.AdamW; not counted in the budget.
        rounding: How 16-bit parameters take up a step: nearest, kahan or stochastic.
        options: Those of `FusedAdamOptions` and `BudgetOptions`. `param_groups[i]["spectral_budget"]` may be changed
            between steps.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        rounding: Rounding = "nearest",
        **options: Any,
    ) -> None:
        common = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(groups_by_dimensions(params, "muon_adamw", "adamw", common, options), rounding)


@OPTIMIZERS.register
def muon_adamw(
    module: nn.Module,
    lr: float = 1e-3,
    *,
    own: AMSGradOptions,
    weight_decay: float = 0.01,
    budget: BudgetOptions,
    shared: SharedOptions,
) -> Optimizer:
    """AdamW whose changes of matrices obey a spectral-norm budget, kept by an inner solver.

    The change D of a matrix minimizes <a, D> + |D|_F^2 / (2 lr) subject to |D|_2 <= spectral_budget, a Adam's
    direction: AdamW's step while it is within the budget. Embeddings, the output layer, norms and biases take AdamW.

    Args:
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        weight_decay: Decoupled decay of matrices, embeddings and the output layer, at least 0; not counted in the
            budget.

    Returns:
        A `Composite` of the algorithms "muon_adamw" and "adamw".
    """
    adamw = {**vars(own), "fused": fastest(torch.optim.AdamW, module).get("fused")}
    options = {"muon_adamw": {**adamw, **vars(budget)}, "adamw": adamw}
    return composite_of(module, route_of("muon_adamw", "adamw"), lr, weight_decay, options, shared)


@register_algorithm
class LimitedSGD(Algorithm):
    """W <- W + D - lr v_W, where D minimizes <v_G, D> + |D|_F^2 / (2 lr) subject to |D|_2 <= budget.

    SGD's velocity is linear in what it averages: v_G is that of the gradients, v_W that of the weight decay
    (weight_decay W). Their sum is torch's, so with an inactive budget this is SGD with coupled decay, and the budget
    never counts the decay.
    """

    name = "muon_sgd"
    options = LimitedMomentumOptions

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse options out of range and parameters that are not matrices."""
        check_momentum(group)
        check_budget(group)

    def linear_step(self, group: Mapping[str, Any], state: State) -> LinearStep | None:
        """That of SGD; within a budget there is none."""
        return None if is_limited(group) else linear.sgd_step(group)

    def initial_state(self, weight: Tensor, group: Mapping[str, Any]) -> State:
        """The velocity of SGD; within a budget also that of the decay, and the solver's warm start."""
        state = {**momentum_state(weight, group), **solver_state(weight, group)}
        if is_limited(group) and group["momentum"] > 0 and group["weight_decay"] > 0:
            state["decay_buffer"] = torch.zeros_like(weight)
        return state

    def update(
        self,
        group: Mapping[str, Any],
        weights: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        statistics: Statistics | None,
    ) -> None:
        """One step."""
        if not is_limited(group):
            sgd_step(group, weights, gradients, states)
            return
        decay = _decay_velocities(group, weights, states)
        directions = average(group, gradients, states)
        take_limited_step(directions, weights, states, group, statistics)
        if decay is not None:
            torch._foreach_add_(weights, decay, alpha=-group["lr"])
        retract(weights, group)


def _decay_velocities(group: Mapping[str, Any], weights: list[Tensor], states: list[State]) -> list[Tensor] | None:
    """What SGD's velocity holds of weight_decay * W, taken before the step counters move on; None without decay."""
    if group["weight_decay"] == 0 and "decay_buffer" not in states[0]:
        return None
    pulls = list(torch._foreach_mul(weights, group["weight_decay"]))
    if group["momentum"] == 0:
        return pulls
    if "decay_buffer" not in states[0]:
        raise ValueError("weight_decay cannot leave 0 during a run: start from a small value, such as 1e-12")
    chains = [
        {"momentum_buffer": state["decay_buffer"], **({"step": state["step"].clone()} if "step" in state else {})}
        for state in states
    ]
    return average(group, pulls, chains)


class MuonSGD(Composite):
    """SGD with momentum whose changes of matrices obey a spectral-norm budget; for bare parameters.

    Tensors of two or more dimensions count as matrices, kernels flattened to out x rest; the rest takes plain SGD. From
    a module, `muon_sgd` routes by role.

    Args:
        params: Tensors, pairs of name and tensor, or groups; a group's own options go before those given here.
        lr: Learning rate, at least 0.
        momentum: How much of the velocity stays from step to step, in [0, 1).
        weight_decay: Coupled decay, at least 0, as in torch.optim.SGD; not counted in the budget.
        rounding: How 16-bit parameters take up a step: nearest, kahan or stochastic.
        options: Those of `MomentumOptions` and `BudgetOptions`. `param_groups[i]["spectral_budget"]` may be changed
            between steps.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        rounding: Rounding = "nearest",
        **options: Any,
    ) -> None:
        common = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(groups_by_dimensions(params, "muon_sgd", "sgd", common, options), rounding)


HEAVY_BALL = MomentumOptions(momentum=0.9)


@OPTIMIZERS.register
def muon_sgd(
    module: nn.Module,
    lr: float = 0.05,
    *,
    own: MomentumOptions = HEAVY_BALL,
    weight_decay: float = 0.0,
    budget: BudgetOptions,
    shared: SharedOptions,
) -> Optimizer:
    """SGD with momentum whose changes of matrices obey a spectral-norm budget, kept by an inner solver.

    The change D of a matrix minimizes <v, D> + |D|_F^2 / (2 lr) subject to |D|_2 <= spectral_budget, v the velocity of
    the gradients: SGD's step while it is within the budget. Embeddings, the output layer, norms and biases take SGD.

    Args:
        weight_decay: Coupled decay of matrices, embeddings and the output layer, at least 0; not counted in the budget.

    Returns:
        A `Composite` of the algorithms "muon_sgd" and "sgd".
    """
    options = {"muon_sgd": {**vars(own), **vars(budget)}, "sgd": vars(own)}
    return composite_of(module, route_of("muon_sgd", "sgd"), lr, weight_decay, options, shared)
