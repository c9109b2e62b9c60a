"""MuonAdamW: AdamW whose changes of matrices obey a spectral-norm budget."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optim.algorithm import Algorithm, State, Statistics, register_algorithm
from optim.checks import check_number
from optim.composite import Composite
from optim.fallbacks import adam_state, adamw_step, check_adam
from optim.grouping import algorithm_groups
from optim.implementation import fastest
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
class LimitedAdamW(Algorithm):
    """W <- (1 - lr weight_decay) W + D, where D minimizes <a, D> + |D|_F^2 / (2 lr) subject to |D|_2 <= budget.

    a is Adam's direction, the averaged gradient over the root of the averaged square, both with bias correction.
    """

    name = "muon_adamw"
    defaults: ClassVar[Mapping[str, Any]] = {
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "amsgrad": False,
        "fused": None,
        **BUDGET_DEFAULTS,
    }

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse options out of range and parameters that are no matrices."""
        check_adam(group)
        check_budget(group)

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
        betas: Decay rates of the averages of the gradient and of its square, each in [0, 1).
        eps: Added to the root of the second moment, at least 0, in units of the gradient.
        weight_decay: Decoupled decay, at least 0, as in torch.optim.AdamW; not counted in the budget.
        amsgrad: Divide by the largest second moment so far (arXiv 1904.09237).
        spectral_budget: Largest spectral norm of the change that the gradient makes in one step, at least 0;
            `param_groups[i]["spectral_budget"]` may be changed between steps. None: exactly torch.optim.AdamW.
        inner_solver: Name in `optim.solvers.SOLVERS`; "none": exactly torch.optim.AdamW.
        tangent: Keep changes tangent to the matrices with orthonormal columns (rows, if wide).
        retraction: "polar" replaces the matrices by their polar factors after each step, from the first on: start from
            orthogonal ones.
        tolerance: Relative duality gap at which an iterative solver stops; None: 1e-4 in float32, 1e-8 in float64.
        max_iterations: Largest number of its iterations; None: its own.
        batch_elements: Equal matrices are solved together up to this many elements; None: one by one on a CPU, 4
            million elsewhere.
        fused: As in torch.optim.AdamW, for what takes its step.
        rounding: How 16-bit parameters take up a step: nearest, kahan or stochastic.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        spectral_budget: float | None = BUDGET_DEFAULTS["spectral_budget"],
        inner_solver: str = BUDGET_DEFAULTS["inner_solver"],
        tangent: bool = False,
        retraction: Retraction = "none",
        tolerance: float | None = None,
        max_iterations: int | None = None,
        batch_elements: int | None = None,
        fused: bool | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        common = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "fused": fused,
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
        super().__init__(groups_by_dimensions(params, "muon_adamw", "adamw", common, budget), rounding)


@OPTIMIZERS.register
def muon_adamw(
    module: nn.Module,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    amsgrad: bool = False,
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
    """AdamW whose changes of matrices obey a spectral-norm budget, kept by an inner solver.

    The change D of a matrix minimizes <a, D> + |D|_F^2 / (2 lr) subject to |D|_2 <= spectral_budget, a Adam's
    direction: AdamW's step while it is within the budget. Embeddings, the output layer, norms and biases take AdamW.

    Args:
        module: The model; its trainable parameters are optimized.
        lr: Learning rate, at least 0: about the size of a step in each coordinate.
        betas: Decay rates of the averages of the gradient and of its square, each in [0, 1).
        eps: Added to the root of the second moment, at least 0, in units of the gradient.
        weight_decay: Decoupled decay of matrices, embeddings and the output layer, at least 0; not counted in the
            budget.
        amsgrad: Divide by the largest second moment so far (arXiv 1904.09237).
        spectral_budget: Largest spectral norm of the change that the gradient makes in one step, at least 0. The
            default is about a tenth of that of new weights. None: exactly AdamW.
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
        A `Composite` of the algorithms "muon_adamw" and "adamw".

    Raises:
        ValueError: if an option is out of range or nothing is trainable.
    """
    check_number("lr", lr)
    common = {
        "betas": tuple(betas),
        "eps": eps,
        "amsgrad": amsgrad,
        "fused": fastest(torch.optim.AdamW, module).get("fused"),
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
    groups = algorithm_groups(
        module,
        route_of("muon_adamw", "adamw"),
        lr=lr,
        weight_decay=weight_decay,
        options={"muon_adamw": {**common, **budget}, "adamw": common},
        rules=rules,
        layer_decay=layer_decay,
    )
    return Composite(groups, rounding)
