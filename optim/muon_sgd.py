"""MuonSGD: SGD whose changes of matrices obey a spectral-norm budget."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optim.algorithm import Algorithm, State, Statistics, register_algorithm
from optim.checks import check_number
from optim.composite import Composite
from optim.fallbacks import average, check_momentum, momentum_state, sgd_step
from optim.grouping import algorithm_groups
from optim.registry import OPTIMIZERS
from optim.rounding import Rounding
from optim.rules import ParameterRule
from optim.spectral_budget import (
    BUDGET_DEFAULTS,
    Retraction,
    check_budget,
    groups_by_dimensions,
    is_limited,
    retract,
    route_of,
    solver_state,
    take_limited_step,
)


@register_algorithm
class LimitedSGD(Algorithm):
    """W <- W + D - lr v_W, where D minimizes <v_G, D> + |D|_F^2 / (2 lr) subject to |D|_2 <= budget.

    SGD's velocity is linear in what it averages: v_G is that of the gradients, v_W that of the weight decay
    (weight_decay W). Their sum is torch's, so with an inactive budget this is SGD with coupled decay, and the budget
    never counts the decay.
    """

    name = "muon_sgd"
    defaults: ClassVar[Mapping[str, Any]] = {
        "momentum": 0.0,
        "nesterov": False,
        "dampening": 0.0,
        **BUDGET_DEFAULTS,
    }

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse options out of range and parameters that are no matrices."""
        check_momentum(group)
        check_budget(group)

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
        nesterov: Use Nesterov's form of the velocity.
        dampening: How much of the new gradient is left out, in [0, 1].
        weight_decay: Coupled decay, at least 0, as in torch.optim.SGD; not counted in the budget.
        spectral_budget: Largest spectral norm of the change that the gradient makes in one step, at least 0;
            `param_groups[i]["spectral_budget"]` may be changed between steps. None: exactly torch.optim.SGD.
        inner_solver: Name in `optim.solvers.SOLVERS`; "none": exactly torch.optim.SGD.
        tangent: Keep changes tangent to the matrices with orthonormal columns (rows, if wide).
        retraction: "polar" replaces the matrices by their polar factors after each step, from the first on: start from
            orthogonal ones.
        tolerance: Relative duality gap at which an iterative solver stops; None: 1e-4 in float32, 1e-8 in float64.
        max_iterations: Largest number of its iterations; None: its own.
        batch_elements: Equal matrices are solved together up to this many elements; None: one by one on a CPU, 4
            million elsewhere.
        rounding: How 16-bit parameters take up a step: nearest, kahan or stochastic.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.05,
        momentum: float = 0.9,
        nesterov: bool = False,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        spectral_budget: float | None = BUDGET_DEFAULTS["spectral_budget"],
        inner_solver: str = BUDGET_DEFAULTS["inner_solver"],
        tangent: bool = False,
        retraction: Retraction = "none",
        tolerance: float | None = None,
        max_iterations: int | None = None,
        batch_elements: int | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        common = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "dampening": dampening,
            "weight_decay": weight_decay,
        }
        budget = {
            "spectral_budget": spectral_budget,
            "inner_solver": inner_solver,
            "tangent": tangent,
            "retraction": retraction,
            "tolerance": tolerance,
            "max_iterations": max_iterations,
            "batch_elements": batch_elements,
        }
        super().__init__(groups_by_dimensions(params, "muon_sgd", "sgd", common, budget), rounding)


@OPTIMIZERS.register
def muon_sgd(
    module: nn.Module,
    lr: float = 0.05,
    momentum: float = 0.9,
    nesterov: bool = False,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    spectral_budget: float | None = BUDGET_DEFAULTS["spectral_budget"],
    inner_solver: str = BUDGET_DEFAULTS["inner_solver"],
    tangent: bool = False,
    retraction: Retraction = "none",
    tolerance: float | None = None,
    max_iterations: int | None = None,
    batch_elements: int | None = None,
    rules: Sequence[ParameterRule] = (),
    layer_decay: float | None = None,
    rounding: Rounding = "nearest",
) -> Optimizer:
    """SGD with momentum whose changes of matrices obey a spectral-norm budget, kept by an inner solver.

    The change D of a matrix minimizes <v, D> + |D|_F^2 / (2 lr) subject to |D|_2 <= spectral_budget, v the velocity of
    the gradients: SGD's step while it is within the budget. Embeddings, the output layer, norms and biases take SGD.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0.
        momentum: How much of the velocity stays from step to step, in [0, 1).
        nesterov: Use Nesterov's form of the velocity, gradient + momentum * velocity.
        dampening: How much of the new gradient is left out, in [0, 1].
        weight_decay: Coupled decay of matrices, embeddings and the output layer, at least 0; not counted in the budget.
        spectral_budget: Largest spectral norm of the change that the gradient makes in one step, at least 0. The
            default is about a tenth of that of new weights. None: exactly SGD.
        inner_solver: none, exact, spectral_clip, spectral_clip_fast, frank_wolfe, dual_ascent, quasi_newton or admm.
        tangent: Keep changes tangent to the matrices with orthonormal columns (rows, if wide): manifold Muon.
        retraction: "polar" replaces the matrices by their polar factors after each step, from the first on: start from
            orthogonal ones.
        tolerance: Relative duality gap at which an iterative solver stops; None: 1e-4 in float32, 1e-8 in float64.
        max_iterations: Largest number of its iterations; None: its own.
        batch_elements: Equal matrices are solved together up to this many elements; None: one by one on a CPU, 4
            million elsewhere.
        rules: Exceptions for chosen parameters, such as another algorithm or `split`; see `ParameterRule`.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.
        rounding: How 16-bit parameters take up a step: nearest, kahan or stochastic.

    Returns:
        A `Composite` of the algorithms "muon_sgd" and "sgd".

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    check_number("lr", lr)
    common = {"momentum": momentum, "nesterov": nesterov, "dampening": dampening}
    budget = {
        "spectral_budget": spectral_budget,
        "inner_solver": inner_solver,
        "tangent": tangent,
        "retraction": retraction,
        "tolerance": tolerance,
        "max_iterations": max_iterations,
        "batch_elements": batch_elements,
    }
    groups = algorithm_groups(
        module,
        route_of("muon_sgd", "sgd"),
        lr=lr,
        weight_decay=weight_decay,
        options={"muon_sgd": {**common, **budget}, "sgd": common},
        rules=rules,
        layer_decay=layer_decay,
    )
    return Composite(groups, rounding)
