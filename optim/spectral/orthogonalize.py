"""Orthogonalization: the polar factor U V^T of a matrix U S V^T, by multiplications alone or exactly.

The iterations replace each singular value s by a polynomial a s + b s^3 + c s^5, step by step, until all are near 1.
The input is divided by its Frobenius norm first, so the smallest singular values are what takes steps.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from steepest.optim.registry import unknown_name
from steepest.optim.spectral.matrices import gram as gram_matrix

Method = Literal["newton_schulz", "gram", "exact"]
Precision = Literal["bfloat16", "float16", "float32", "float64"]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Coefficients:
    """A schedule of polynomials (a, b, c), one a step.

    Attributes:
        rows: The polynomials.
        steps: How many steps are meant.
        any_steps: Whether fewer or more steps make sense (more repeat the last row); otherwise `steps` is the only one.
    """

    rows: tuple[Triple, ...]
    steps: int
    any_steps: bool

    def schedule(self, steps: int | None) -> list[Triple]:
        """The polynomials of `steps` steps; None: as many as are meant."""
        steps = self.steps if steps is None else steps
        return [self.rows[min(step, len(self.rows) - 1)] for step in range(steps)]


# Steps before which the Gram form starts anew from X: rounding errors of R, large against the squares of the small
# singular values, grow from step to step and would overflow in 16 bits.
RESTARTS = (2, 5, 8)


def _safe(rows: tuple[Triple, ...], safety: float) -> tuple[Triple, ...]:
    """Polynomials for singular values that rounding may push to `safety`; the last row, a fixed one, is left alone."""
    scaled = tuple((a / safety, b / safety**3, c / safety**5) for a, b, c in rows[:-1])
    return (*scaled, rows[-1])


_JORDAN = (3.4445, -4.7750, 2.0315)

COEFFICIENTS: dict[str, Coefficients] = {
    # Keller Jordan's, the one of torch.optim.Muon: fast, ends within [0.68, 1.13] for singular values above 0.01, never
    # above 1.21.
    "original": Coefficients((_JORDAN,), 5, True),
    # You Jiacheng's five: [0.98, 1.03] for singular values above 0.01, poor below; never above 1.15.
    "quintic": Coefficients(
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
        5,
        False,
    ),
    # arXiv 2505.16932: the best polynomial of each step for singular values above 0.001; [0.85, 1.12] after 5 steps,
    # 1.00 after 8. As published it is unsafe in bfloat16 (up to 1.37), hence the safety factor of the paper's code.
    "polar_express": Coefficients(
        _safe(
            (
                (8.28721201814563, -23.595886519098837, 17.300387312530933),
                (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
                (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
                (3.3184196573706015, -2.488488024314874, 0.51004894012372),
                (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
                (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
                (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
                (1.875, -1.25, 0.375),
            ),
            1.01,
        ),
        5,
        True,
    ),
    # Eight fast steps, then two that contract to 1: [1.00, 1.001] for singular values above 0.001.
    "deepseek": Coefficients((*[_JORDAN] * 8, *[(2.0, -1.5, 0.5)] * 2), 10, False),
    # Third degree, two multiplications a step in place of three; coarse: [0.77, 1.30].
    "cubic": Coefficients(
        (
            (3.3656576, -3.3420992, 0.0),
            (2.5744352, -1.4957376, 0.0),
            (2.5368962, -1.4312570, 0.0),
            (2.4418906, -1.2764040, 0.0),
            (2.2230472, -0.9630650, 0.0),
        ),
        5,
        False,
    ),
}


def check_method(method: str, coefficients: str, steps: int | None, eps: float) -> None:
    """Refuse a way of orthogonalization that does not exist.

    Raises:
        ValueError: naming the value and what is allowed.
    """
    if method not in get_args(Method):
        raise ValueError(unknown_name("method of orthogonalization", method, list(get_args(Method))))
    if coefficients not in COEFFICIENTS:
        raise ValueError(unknown_name("table of coefficients", coefficients, list(COEFFICIENTS)))
    table = COEFFICIENTS[coefficients]
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps < 100):
        raise ValueError(f"steps must be a whole number from 1 to 99, or None for the table's own, not {steps!r}")
    if steps is not None and steps != table.steps and not table.any_steps:
        raise ValueError(
            f"steps must be {table.steps} with coefficients {coefficients!r}, which go together, not {steps}"
        )
    if not (isinstance(eps, float | int) and 0 < eps < math.inf):
        raise ValueError(f"eps must be a finite number above 0, not {eps!r}")


def default_precision(method: str, device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type a method works in: the cheapest in which its result is as good as its polynomials allow.

    Args:
        method: "newton_schulz": bfloat16. "gram": its squared singular values need more digits, float16 where there are
            fast multiplications of it, else float32. "exact": the input's own.
        device: Where the matrices are.
        dtype: Their type.
    """
    if method == "newton_schulz":
        return torch.bfloat16
    if method == "gram":
        return torch.float16 if device.type == "cuda" else torch.float32
    return torch.float64 if dtype == torch.float64 else torch.float32


def orthogonalize(
    matrices: Tensor,
    method: str = "newton_schulz",
    coefficients: str = "original",
    steps: int | None = None,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The nearest matrix with singular values 1, as Muon uses it (Jordan et al. 2024); approximate except by "exact".

    Args:
        matrices: One matrix (m, n) or a batch of them (k, m, n), real, Frobenius norms below 1e19; not changed.
        method: "newton_schulz"; "gram", the same polynomials on the small Gram matrix, cheaper when one side is more
            than about 2.5 times the other; "exact", by the eigenvectors of the Gram matrix in float64, where singular
            values below about 1e-7 of the largest count as 0 and stay 0.
        coefficients: Name in `COEFFICIENTS`; "exact" needs none.
        steps: Number of iterations; None: the table's own.
        eps: Lower bound of the norm that is divided by, in units of the matrix: what is far below it stays small.
        dtype: Type to compute in and to return. None: on a CPU float32, or float64 for a float64 input; elsewhere as
            `default_precision` says.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: if an option is unknown or out of range, the input has other than 2 or 3 dimensions, or "gram" is
            asked for in bfloat16, where it can overflow.
    """
    check_method(method, coefficients, steps, eps)
    if method == "gram" and dtype == torch.bfloat16:
        raise ValueError("method 'gram' can overflow in bfloat16: use float16, float32 or float64")
    if matrices.ndim not in (2, 3):
        raise ValueError(f"matrices must have shape (m, n) or (k, m, n), not {tuple(matrices.shape)}")
    if dtype is None:
        on_cpu = matrices.device.type == "cpu"
        dtype = default_precision("exact" if on_cpu else method, matrices.device, matrices.dtype)
    tall = matrices.shape[-2] > matrices.shape[-1]
    if method == "exact":
        wide = _polar_factor(matrices.mT if tall else matrices).to(dtype)
    else:
        schedule = COEFFICIENTS[coefficients].schedule(steps)
        wide = _normalized(matrices, eps, dtype)
        wide = wide.mT if tall else wide
        wide = _newton_schulz(wide, schedule) if method == "newton_schulz" else _gram_newton_schulz(wide, schedule)
    return wide.mT if tall else wide


def _normalized(matrices: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float16:
        # A norm that float16 cannot hold is not a reason to fail.
        return _normalized(matrices, eps, torch.float32).to(dtype)
    copy = matrices.to(dtype, copy=True)
    return copy.div_(torch.linalg.vector_norm(copy, dim=(-2, -1), keepdim=True).clamp(min=eps))


def _newton_schulz(wide: Tensor, schedule: list[Triple]) -> Tensor:
    """X <- a X + (b A + c A^2) X with A = X X^T."""
    multiply_add = torch.addmm if wide.ndim == 2 else torch.baddbmm
    for a, b, c in schedule:
        gram = gram_matrix(wide)
        factor = multiply_add(gram, gram, gram, beta=b, alpha=c) if c else b * gram
        wide = multiply_add(wide, factor, wide, beta=a)
    return wide


def _gram_newton_schulz(wide: Tensor, schedule: list[Triple]) -> Tensor:
    """The same iteration on R = X X^T and the product Q of all factors; X itself is met at the ends and at restarts."""
    multiply_add = torch.addmm if wide.ndim == 2 else torch.baddbmm
    gram, product = gram_matrix(wide), None
    for step, (a, b, c) in enumerate(schedule):
        if step in RESTARTS and product is not None:
            wide = product @ wide
            gram, product = gram_matrix(wide), None
        factor = multiply_add(gram, gram, gram, beta=b, alpha=c) if c else b * gram
        factor.diagonal(dim1=-2, dim2=-1).add_(a)  # a I + b R + c R^2
        product = factor if product is None else factor @ product
        if step < len(schedule) - 1:
            gram = factor @ gram @ factor
    return wide if product is None else product @ wide


def _polar_factor(wide: Tensor) -> Tensor:
    """(X X^T)^(-1/2) X on the range of X, in float64: squaring costs half of the digits."""
    double = wide.double()
    # A power of two near the largest entry: neither very large nor very small matrices are lost when squared.
    largest = double.abs().amax(dim=(-2, -1), keepdim=True)
    double = double / torch.where(largest > 0, torch.exp2(torch.frexp(largest).exponent.double()), 1.0)
    values, vectors = torch.linalg.eigh(gram_matrix(double))
    floor = values[..., -1:].clamp(min=0) * (wide.shape[-2] * torch.finfo(torch.float64).eps)
    inverse_roots = torch.where(values > floor, values.clamp(min=torch.finfo(torch.float64).tiny).rsqrt(), 0.0)
    return (vectors * inverse_roots.unsqueeze(-2)) @ (vectors.mT @ double)
