"""L-BFGS: quasi-Newton steps from the last few gradients."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.optim.classical.lbfgs import check_count
from steepest.optim.classical.references.base import Reference, State, dense
from steepest.optim.classical.references.line_search import Point, backtracking, strong_wolfe
from steepest.optim.core.closure import mean_over_ranks, repeatable
from steepest.optim.core.grouping import parameter_groups
from steepest.optim.core.options import Options
from steepest.optim.registry import OPTIMIZERS

SEARCHES = {"strong_wolfe": strong_wolfe, "backtracking": backtracking}


class LBFGSOptions(Options):
    """The memory and the line search.

    Attributes:
        history_size: Pairs of steps and gradient changes kept, at least 1; memory is twice that many copies of the
            weights.
        line_search: "strong_wolfe", whose pairs all show positive curvature, or "backtracking".
    """

    history_size: int = 10
    line_search: Literal["strong_wolfe", "backtracking"] = "strong_wolfe"


class LBFGS(Reference):
    """L-BFGS (Liu and Nocedal 1989), one iteration in a step.

        d <- -H g                  H approximates the inverse Hessian, from the last pairs (s, y); see `two_loop`
        t <- line search on f(w + t * d), starting at t = lr
        s <- t * d,  y <- g(w + t * d) - g(w)
        w <- w + s

    Both gradients of a pair are of one batch, so y is the change due to s and nothing else. A pair that shows no
    positive curvature (y . s > 0) is left out. Before the first pair, H is the identity and the first step is no longer
    than 1 in the sum of its entries.
    """

    needs_closure: ClassVar[bool] = True
    searches_line: ClassVar[bool] = True

    options = LBFGSOptions

    def check(self, group: dict[str, Any]) -> None:
        """Refuse options out of range, and a second group."""
        check_count("history_size", group["history_size"])
        if group["line_search"] not in SEARCHES:
            raise ValueError(f"line_search must be one of {', '.join(SEARCHES)}, not {group['line_search']!r}")
        if len(self.param_groups) > 1 or group.get("weight_decay", 0.0) != 0:
            raise ValueError("LBFGS takes one parameter group, without weight decay")

    def initial_state(self, weight: Tensor, group: dict[str, Any]) -> State:
        """Pairs, the newest last; a pair of zeros does not count."""
        room = (group["history_size"], *weight.shape)
        return {"steps": weight.new_zeros(room), "changes": weight.new_zeros(room)}

    def update(self, weight: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> None:
        """Not by parameter: all of them share a direction and a line search."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one iteration.

        Args:
            closure: Zeroes the gradients, evaluates the model, calls `backward` and returns the loss.

        Returns:
            The loss before the step.

        Raises:
            ValueError: if there is no closure, it returns no loss, or a gradient is sparse.
        """
        group = self.param_groups[0]
        weights = group["params"]
        evaluate = mean_over_ranks(repeatable("reference_lbfgs", closure, weights[0].device))
        loss = evaluate()
        gradient = self._gradient(weights)
        steps, changes = self._pairs(weights, "steps"), self._pairs(weights, "changes")
        direction = two_loop(gradient, steps, changes)
        start = Point(0.0, float(loss), float(gradient @ direction), gradient)
        if group["lr"] == 0 or not start.slope < 0:  # frozen, or at a minimum
            return loss
        first_step = group["lr"] if steps[-1].any() else group["lr"] * min(1.0, 1.0 / float(gradient.abs().sum()))
        origin = flat(weights)

        def at(step: float) -> Point:
            assign(weights, origin + step * direction)
            loss = float(evaluate())
            gradient = self._gradient(weights)
            return Point(step, loss, float(gradient @ direction), gradient)

        end = SEARCHES[group["line_search"]](at, start, first_step)
        assign(weights, origin + end.step * direction)
        self._remember(weights, end.step * direction, end.gradient - gradient)
        return loss

    def _gradient(self, weights: list[Tensor]) -> Tensor:
        return flat(
            [weight.new_zeros(weight.shape) if weight.grad is None else dense(weight.grad, self) for weight in weights]
        )

    def _pairs(self, weights: list[Tensor], key: str) -> Tensor:
        return torch.cat([self.state[weight][key].flatten(1) for weight in weights], dim=1)

    def _remember(self, weights: list[Tensor], step: Tensor, change: Tensor) -> None:
        if not step @ change > 1e-8 * step.norm() * change.norm():
            return
        sizes = [weight.numel() for weight in weights]
        for weight, own_step, own_change in zip(weights, step.split(sizes), change.split(sizes), strict=True):
            state = self.state[weight]
            for key, newest in (("steps", own_step), ("changes", own_change)):
                state[key] = torch.cat([state[key][1:], newest.view(1, *weight.shape)])


def two_loop(gradient: Tensor, steps: Tensor, changes: Tensor) -> Tensor:
    """Minus H g without forming H (Nocedal 1980; Nocedal and Wright 2006, algorithm 7.4).

    H starts as (s . y) / (y . y) times the identity, of the newest pair, and takes up the pairs from the oldest to the
    newest: H <- (1 - r s y^T) H (1 - r y s^T) + r s s^T with r = 1 / (s . y).

    Args:
        gradient: g, shape (n,).
        steps: Pairs' s, shape (m, n), the newest last; rows of zeros are passed over.
        changes: Pairs' y, shape (m, n).

    Returns:
        The direction, shape (n,).
    """
    pairs = [(s, y, 1 / (s @ y)) for s, y in zip(steps, changes, strict=True) if s @ y > 0]
    q, shares = gradient.clone(), []
    for s, y, r in reversed(pairs):
        shares.append(r * (s @ q))
        q -= shares[-1] * y
    if pairs:
        s, y, _ = pairs[-1]
        q *= (s @ y) / (y @ y)
    for s, y, r in pairs:
        q += (shares.pop() - r * (y @ q)) * s
    return -q


def flat(tensors: list[Tensor]) -> Tensor:
    """All numbers of the tensors in a row."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def assign(weights: list[Tensor], values: Tensor) -> None:
    """Write a row of numbers into the weights."""
    for weight, value in zip(weights, values.split([weight.numel() for weight in weights]), strict=True):
        weight.copy_(value.view_as(weight))


@OPTIMIZERS.register
def reference_lbfgs(module: nn.Module, lr: float = 1.0, *, own: LBFGSOptions) -> Optimizer:
    """L-BFGS from scratch, to be read (optim/classical/references/lbfgs.py): one iteration in a step.

    A step evaluates its batch several times, with the same dropout; full batches or very large ones are what it is made
    for. There is no weight decay, no gradient accumulation, no gradient clipping and no 16-mixed precision.

    Args:
        module: The model; its trainable parameters are optimized, in one group.
        lr: First trial length of the line search, at least 0; 1 is the Newton step.

    Returns:
        An `steepest.optim.classical.references.LBFGS`.
    """
    return LBFGS(parameter_groups(module, 0.0), lr=lr, **vars(own))
