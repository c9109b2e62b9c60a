"""AutoSGM's learning dynamics as a linear time-varying filter, measured.

The weights' changes obey, element by element,

    dw_t = beta r_t dw_{t-1} + alpha_t eta / (1 - gamma) e_t

with alpha_t the whole learning rate (window * numerator * correction of the filter's start / denominator), r_t =
alpha_t / alpha_{t-1} and e_t = gamma g_{t-1} - g_t plus terms of the weight decay. They contract where |beta r_t| < 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steepest.optim.autosgm.batches import State

# What must be remembered from the step before to know r_t and e_t.
STATES = ("previous_rate", "previous_drive")


@dataclass
class Trace:
    """Collects the tensors of a batch, part by part, while it is updated."""

    weights: list[list[Tensor]] = field(default_factory=list)
    gradients: list[list[Tensor]] = field(default_factory=list)
    filtered: list[list[Tensor]] = field(default_factory=list)
    denominators: list[list[Tensor]] = field(default_factory=list)

    def add(
        self, weights: list[Tensor], gradients: list[Tensor], filtered: list[Tensor], denominators: list[Tensor]
    ) -> None:
        """Note one part before its weights change: copies of what is going to be overwritten; no denominators are 1."""
        self.weights.append([weight.clone() for weight in weights])
        self.gradients.append([gradient.clone() for gradient in gradients])
        self.filtered.append([output.clone() for output in filtered])
        self.denominators.append([d.clone() for d in denominators] or [torch.ones_like(weight) for weight in weights])

    def finish(
        self,
        group: Mapping[str, Any],
        step: int,
        factor: float,
        numerators: list[Tensor] | list[float],
        states: list[State],
        statistics: list[dict[str, Tensor]] | None,
    ) -> None:
        """Measure the whole tensors and remember what the next step needs.

        Args:
            group: The parameter group.
            step: Number of the step, from 1.
            factor: The window's factor.
            numerators: One for each tensor.
            states: Their states.
            statistics: To be filled, one dictionary for each tensor; None to remember only.
        """
        for index, state in enumerate(states):
            w, g, y, d = (
                torch.cat([part[index] for part in column]) if len(column) > 1 else column[0][index]
                for column in (self.weights, self.gradients, self.filtered, self.denominators)
            )
            measured = _measured(group, step, factor * numerators[index], w, g, y, d, state)
            if statistics is not None:
                statistics[index].update(_summary(measured, group["beta"]))


def _measured(
    group: Mapping[str, Any],
    step: int,
    scale: float | Tensor,
    w: Tensor,
    g: Tensor,
    y: Tensor,
    d: Tensor,
    state: State,
) -> dict[str, Tensor]:
    """The terms of the equation for one tensor; `scale` is window * numerator, `y` the filter's output."""
    beta, gamma = group["beta"], group["gamma"]
    sign = 1.0 if group["maximize"] else -1.0
    eta = group["gain"] or 1 - beta
    correction = (1 - beta) / eta / (1 - beta**step) if group["debias"] else 1.0
    decay = group["weight_decay"] if group["decoupled_decay"] else 0.0
    alpha = scale * correction / d
    # y is the filter's output at an input gain of 1 - beta.
    change = sign * (alpha * (eta / (1 - beta)) * y + scale * (1 - beta) / (1 - gamma) * decay * w)
    measured = {"alpha": alpha, "dw": change}
    if group["track_dynamics"]:
        pull = (1 - beta) * decay / eta / correction * d * w
        measured["e"] = sign * (g + pull - state["previous_drive"])
        if step > 1:
            measured["r"] = alpha / state["previous_rate"]
        state["previous_rate"].copy_(alpha)
        state["previous_drive"].copy_(gamma * g + beta * pull)
    return measured


def _summary(measured: dict[str, Tensor], beta: float) -> dict[str, Tensor]:
    """Mean, standard deviation and largest magnitude of each; the share of elements that do not contract."""
    summary = {}
    for name, values in measured.items():
        summary[f"{name}_mean"] = values.mean()
        summary[f"{name}_std"] = values.std(correction=0)
        summary[f"{name}_max"] = values.abs().max()
    if "r" in measured:
        summary["not_contracting"] = ((beta * measured["r"]).abs() >= 1).float().mean()
    return summary
