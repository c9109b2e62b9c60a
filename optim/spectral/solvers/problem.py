"""The inner problem of a spectrally constrained update, brought to a form without units.

    (P)  min_D  <G, D> + |D|_F^2 / (2 lr)   subject to  |D|_2 <= budget
    (T)  the same, and also  W^T D + D^T W = 0

Both depend on one number besides the direction of G. With D = budget * X and G = scale * Ĝ, Ĝ of mean singular value 1,

    min_X  <Ĝ, X> + threshold |X|_F^2 / 2   subject to  |X|_2 <= 1,   threshold = budget / (lr * scale):

singular values of Ĝ above the threshold are cut. It is 0 in the linear limit (lr infinite, Muon), and the budget is
inactive once it exceeds the largest singular value. In (T), Ĝ is the tangent part of G: its normal part has no effect.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.optim.spectral.solvers.clip import decomposed, rounding_level, saturated, singular_values, spectral_norm
from steepest.optim.spectral.solvers.tangent import TangentSpace

State = dict[str, Tensor]


@dataclass(frozen=True)
class SolverResult:
    """The updates of a batch of equally shaped matrices, and what is known of them.

    Attributes:
        update: The changes D to be added to the weights, shape (batch, m, n).
        iterations: Iterations each matrix took, shape (batch,); 0 for a closed form.
        primal_objective: <G, D> + |D|_F^2 / (2 lr), shape (batch,); None if not asked for.
        duality_gap: Bound on how far that is above the minimum, relative to the size of the best lower bound, shape
            (batch,). With the gap undone of its scale, |D - D*|_F <= sqrt(2 lr gap). Negative
            for an update beyond its budget (`none`). None if not asked for.
        residual: Relative violation of the constraints: excess over the budget plus, in (T), distance from tangent,
            shape (batch,); None if not asked for.
        state: Warm start for the next call, tensors of the shapes of `initial_state`.
    """

    update: Tensor
    iterations: Tensor
    primal_objective: Tensor | None = None
    duality_gap: Tensor | None = None
    residual: Tensor | None = None
    state: State = field(default_factory=dict)


class Problem(ABC):
    """The inner problem for a batch, without units, as iterative solvers see it.

    Attributes:
        gradient: Ĝ: matrices (batch, m, n) in (T), singular values (batch, n) in (P).
        threshold: Shape (batch,), at least 0.
        norm: Largest singular value of Ĝ, shape (batch,): the budget is inactive if the threshold is not below it.
        dual: Lower bound of the minimum that is known from the start, shape (batch,); in (P) it is the minimum.
    """

    gradient: Tensor
    threshold: Tensor
    norm: Tensor
    dual: Tensor

    @abstractmethod
    def project(self, points: Tensor) -> Tensor:
        """Tangent parts."""

    @abstractmethod
    def clip(self, points: Tensor) -> Tensor:
        """Nearest points in the unit ball."""

    @abstractmethod
    def feasible(self, points: Tensor) -> Tensor:
        """Points brought to satisfy both constraints: tangent parts, scaled into the ball."""

    @abstractmethod
    def lower_bound(self, multiplier: Tensor) -> Tensor:
        """The dual value at a multiplier of the ball, shape (batch,)."""

    @abstractmethod
    def start(self) -> Tensor:
        """A feasible point that no method is to do worse than."""

    @abstractmethod
    def select(self, keep: Tensor) -> "Problem":
        """The same for some members of the batch."""


@dataclass(frozen=True)
class SpectralProblem(Problem):
    """(P): all its iterates share the singular vectors of the gradient, so it is a problem on singular values.

    One decomposition, after which an iteration of any solver costs next to nothing: updates are D = U diag(x) V^T.
    """

    gradient: Tensor
    threshold: Tensor
    norm: Tensor
    dual: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, gradient: Tensor, threshold: Tensor) -> tuple["SpectralProblem", Tensor]:
        """The problem for tall matrices of largest entry 1, and the mean singular values its gradient is divided by."""
        left, values, right = decomposed(gradient)
        values = torch.where(values > rounding_level(values, gradient.shape[1]), values, 0.0)
        scale = _mean_or_one(values)
        values, threshold = values / scale[:, None], threshold / scale
        return cls(values, threshold, values[:, 0], dual_value(values, threshold), left, right), scale

    def project(self, points: Tensor) -> Tensor:
        """No constraint of tangency: the points themselves."""
        return points

    def clip(self, points: Tensor) -> Tensor:
        """Nearest points in the unit ball of the spectral norm: entries in [-1, 1]."""
        return points.clamp(-1, 1)

    def feasible(self, points: Tensor) -> Tensor:
        """Points scaled into the ball."""
        return points / points.abs().amax(-1).clamp(min=1)[:, None]

    def lower_bound(self, multiplier: Tensor) -> Tensor:
        """The minimum itself, whatever the multiplier: in (P) it is known in closed form."""
        return self.dual

    def start(self) -> Tensor:
        """Zero, or the solution where the budget is inactive."""
        inactive = self.norm <= self.threshold
        return torch.where(inactive[:, None], -self.gradient / _positive(self.threshold)[:, None], 0.0)

    def matrices(self, points: Tensor) -> Tensor:
        """The matrices X that belong to singular values."""
        return (self.left * points[:, None, :]) @ self.right.mT

    def select(self, keep: Tensor) -> "SpectralProblem":
        """The same for some members of the batch."""
        parts = (self.gradient, self.threshold, self.norm, self.dual, self.left, self.right)
        return SpectralProblem(*(part[keep] for part in parts))


@dataclass(frozen=True)
class TangentProblem(Problem):
    """(T): its dual is over normal matrices N: maximize -sum h(s_i(Ĝ + N)), with h as in `dual_value`."""

    gradient: Tensor
    threshold: Tensor
    norm: Tensor
    dual: Tensor
    space: TangentSpace

    @classmethod
    def of(cls, gradient: Tensor, threshold: Tensor, space: TangentSpace) -> tuple["TangentProblem", Tensor]:
        """The problem for tangent parts of gradients, and the mean singular values its gradient is divided by."""
        values = singular_values(gradient)
        scale = _mean_or_one(values)
        values, threshold = values / scale[:, None], threshold / scale
        return cls(
            gradient / scale[:, None, None], threshold, values[:, 0], dual_value(values, threshold), space
        ), scale

    def project(self, points: Tensor) -> Tensor:
        """Tangent parts."""
        return self.space.project(points)

    def clip(self, points: Tensor) -> Tensor:
        """Nearest points in the unit ball of the spectral norm."""
        return saturated(points, torch.ones_like(self.threshold))[0]

    def feasible(self, points: Tensor) -> Tensor:
        """Tangent parts, scaled into the ball."""
        tangent = self.space.project(points)
        return tangent / spectral_norm(tangent).clamp(min=1)[:, None, None]

    def lower_bound(self, multiplier: Tensor) -> Tensor:
        """The dual value at the normal part of a multiplier of the ball."""
        normal = multiplier - self.space.project(multiplier)
        return dual_value(singular_values(self.gradient - normal), self.threshold)

    def start(self) -> Tensor:
        """Steepest descent scaled into the ball: no solver does worse, and where the budget is inactive it is exact."""
        norm = torch.maximum(self.norm, self.threshold)
        return -self.gradient / _positive(norm)[:, None, None]

    def select(self, keep: Tensor) -> "TangentProblem":
        """The same for some members of the batch."""
        gradient, threshold, norm, dual = (p[keep] for p in (self.gradient, self.threshold, self.norm, self.dual))
        return TangentProblem(gradient, threshold, norm, dual, self.space.select(keep))


def objective(problem: Problem, points: Tensor) -> Tensor:
    """<Ĝ, X> + threshold |X|_F^2 / 2, shape (batch,)."""
    return inner(problem.gradient, points) + problem.threshold * inner(points, points) / 2


def dual_value(values: Tensor, threshold: Tensor) -> Tensor:
    """A lower bound of the minimum from the singular values s of Ĝ + N, for any normal matrix N: -sum h(s).

    h(s) = s^2 / (2 threshold) up to the threshold and s - threshold / 2 above: the conjugate of the objective in the
    ball. In (P), N = 0 gives the minimum itself.

    Args:
        values: Singular values, shape (batch, n).
        threshold: Shape (batch,).
    """
    level = threshold[:, None]
    return -torch.where(values <= level, values.square() / (2 * _positive(level)), values - level / 2).sum(-1)


def relative_gap(primal: Tensor, dual: Tensor) -> Tensor:
    """How far a value is above a lower bound, relative to the size of the bound."""
    return (primal - dual) / _positive(dual.abs())


def inner(first: Tensor, second: Tensor) -> Tensor:
    """Inner products over all dimensions but the first; shape (batch,)."""
    return (first * second).flatten(1).sum(1)


def lanes(values: Tensor, like: Tensor) -> Tensor:
    """Numbers per member of the batch, shaped to multiply a tensor of more dimensions."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _mean_or_one(values: Tensor) -> Tensor:
    mean = values.mean(-1)
    return torch.where(mean > 0, mean, 1.0)


def _positive(values: Tensor) -> Tensor:
    return values.clamp(min=torch.finfo(values.dtype).tiny)
