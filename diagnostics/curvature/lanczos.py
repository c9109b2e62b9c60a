"""The largest eigenvalues of a symmetric matrix from few products with vectors, by Lanczos' method."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
FIRST_ROWS = 8  # most searches end within so many steps
CANCELLATION = 0.01  # of the matrix's size: a new vector that short has lost two digits


@dataclass(frozen=True)
class Eigenpairs:
    """Largest eigenvalues found.

    Attributes:
        values: Largest first. Each is at most the true one.
        residuals: |A v - value v| for each unit vector v: an eigenvalue lies that near, though not surely the largest.
        vectors: Unit vectors, shape (count, size); None if they were not wanted.
        products: Products that were taken.
        converged: Whether the values stood still to the tolerance.
    """

    values: tuple[float, ...]
    residuals: tuple[float, ...]
    vectors: Tensor | None
    products: int
    converged: bool


class Lanczos:
    """An orthonormal basis of the space of v, A v, A A v, ... in which A is tridiagonal.

    Every new vector is orthogonalized against all former ones once more, so that no eigenvalue appears as a ghost.

    Args:
        product: Multiplies by A; must not keep or change its argument, a view.
        start: First vector, of any length but 0.

    Attributes:
        diagonal: Of the tridiagonal matrix, a number per product taken.
        off_diagonal: As many; the last one leads out of the basis.
        exhausted: Whether the space is complete: A maps it into itself.
    """

    def __init__(self, product: Product, start: Tensor) -> None:
        self.product = product
        self.diagonal: list[float] = []
        self.off_diagonal: list[float] = []
        self.exhausted = False
        norm = float(torch.linalg.vector_norm(start))
        if not 0.0 < norm < math.inf:
            raise FloatingPointError(f"a search for eigenvalues cannot start from a vector of norm {norm}")
        self._rows = start.new_empty(min(FIRST_ROWS, start.numel() + 1), start.numel())
        torch.div(start, norm, out=self._rows[0])

    @property
    def basis(self) -> Tensor:
        """The vectors multiplied so far, shape (products, size)."""
        return self._rows[: len(self.diagonal)]

    def step(self) -> None:
        """Take a product and extend the basis."""
        count = len(self.diagonal) + 1
        if count == self._rows.shape[0]:
            grown = self._rows.new_empty(2 * count, self._rows.shape[1])
            grown[:count] = self._rows
            self._rows = grown
        basis, new = self._rows[:count], self._rows[count]
        new.copy_(self.product(basis[-1]))  # and worked on in place: large vectors cost more to allocate than to add
        diagonal = torch.dot(basis[-1], new)
        new.sub_(basis[-1] * diagonal)
        again = basis @ new
        new.addmv_(basis.T, again, alpha=-1)
        entry, rest = torch.stack([diagonal + again[-1], torch.linalg.vector_norm(new)]).tolist()
        self.diagonal.append(entry)
        scale = max(map(abs, (*self.diagonal, *self.off_diagonal, rest)))
        if rest < CANCELLATION * scale:  # what is left is rounding errors in large part
            new.addmv_(basis.T, basis @ new, alpha=-1)
            rest = float(torch.linalg.vector_norm(new))
        self.off_diagonal.append(rest)
        self.exhausted = count == basis.shape[1] or rest <= 10 * torch.finfo(new.dtype).eps * scale
        if not self.exhausted:
            new.div_(rest)

    def restart(self, vector: Tensor) -> None:
        """Leave an exhausted space in a new direction, for eigenvalues that appear several times."""
        basis, new = self.basis, self._rows[len(self.diagonal)]
        new.copy_(vector)
        for _ in range(2):
            new.addmv_(basis.T, basis @ new, alpha=-1)
        new.div_(torch.linalg.vector_norm(new))
        self.off_diagonal[-1] = 0.0
        self.exhausted = False

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues, largest first, and eigenvectors (columns) of the tridiagonal matrix, in float64 on the CPU."""
        matrix = torch.diag(torch.tensor(self.diagonal, dtype=torch.float64))
        between = torch.tensor(self.off_diagonal[:-1], dtype=torch.float64)
        matrix += torch.diag(between, 1) + torch.diag(between, -1)
        values, vectors = torch.linalg.eigh(matrix)
        return values.flip(0), vectors.flip(1)


def largest_eigenvalues(
    product: Product,
    start: Tensor,
    count: int = 1,
    tolerance: float = 0.01,
    max_products: int | None = None,
    vectors: bool = True,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    """The largest (not the largest in magnitude) eigenvalues of a symmetric matrix.

    It stops when all values have changed by less than the tolerance in two successive steps, at the earliest after 4.
    An eigenvalue that appears several times, which networks do not have, may be found less often.

    Args:
        product: Multiplies a vector by the matrix.
        start: Where the search starts; the gradient plus a little noise is near the leading eigenvectors of a Hessian.
        count: How many, at least 1; no more than the length of `start` are returned.
        tolerance: Relative, above 0. 0.01 took 4 to 6 products on small networks, with errors below 0.02.
        max_products: Largest number of products, by default 20, and 10 more for each value beyond the first.
        vectors: Whether to return the eigenvectors.
        generator: For `count` above 1, directions in which to look for eigenvalues that appear several times.

    Raises:
        ValueError: if an argument is out of range.
        FloatingPointError: if the start is zero or a product is not finite.
    """
    if count < 1:
        raise ValueError(f"the number of eigenvalues must be at least 1, got {count}")
    if not tolerance > 0.0:
        raise ValueError(f"the tolerance must be above 0, got {tolerance}")
    limit = 20 + 10 * (count - 1) if max_products is None else max_products
    if limit < 1:
        raise ValueError(f"max_products must be at least 1, got {limit}")
    count = min(count, start.numel())
    lanczos = Lanczos(product, start)
    quiet, before = 0, None
    while True:
        lanczos.step()
        values, columns = lanczos.ritz()
        if not torch.isfinite(values).all():
            raise FloatingPointError("the curvature is not finite")
        steps = len(lanczos.diagonal)
        found = values[:count]
        if before is not None and len(before) == count:
            floor = 1e-4 * tolerance * values.abs().max()  # near zero are rounding errors, which never stand still
            still = (found - before).abs() <= torch.maximum(tolerance * found.abs(), floor)
            quiet = quiet + 1 if bool(still.all()) else 0
        before = found
        converged = steps >= max(4, count + 2) and quiet >= 2
        if lanczos.exhausted and (count == 1 or steps == start.numel()):
            converged = True
        if converged or steps >= limit:
            break
        if lanczos.exhausted:
            lanczos.restart(torch.randn(start.shape, generator=generator, dtype=start.dtype).to(start.device))
    count = min(count, steps)
    ends = lanczos.off_diagonal[-1] * columns[-1, :count].abs()
    basis = lanczos.basis
    return Eigenpairs(
        values=tuple(values[:count].tolist()),
        residuals=tuple(ends.tolist()),
        vectors=columns[:, :count].T.to(basis) @ basis if vectors else None,
        products=steps,
        converged=converged,
    )


@dataclass(frozen=True)
class Estimate:
    """A mean over random probes and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Density:
    """How eigenvalues are spread: a sum of points with weights, over several probes.

    Attributes:
        nodes: Eigenvalues, ascending.
        weights: The share of all eigenvalues each stands for; they add up to 1.
    """

    nodes: tuple[float, ...]
    weights: tuple[float, ...]


def trace(product: Product, like: Tensor, probes: int, generator: torch.Generator) -> Estimate:
    """The sum of the eigenvalues, by Hutchinson's estimator: the mean of z'Az over vectors z of random signs.

    Args:
        product: Multiplies a vector by the matrix.
        like: A vector of the right length, type and device.
        probes: Number of products, at least 2; with 12 the error on networks is a few percent.
        generator: Of random numbers on the CPU; the same on all ranks.

    Raises:
        ValueError: if `probes` is below 2, which leaves the error unknown.
    """
    if probes < 2:
        raise ValueError(f"a trace with its error takes at least 2 probes, got {probes}")
    samples = []
    for _ in range(probes):
        signs = random_signs(like, generator)
        samples.append(float(torch.dot(signs, product(signs))))
    values = torch.tensor(samples, dtype=torch.float64)
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(probes)))


def spectral_density(
    product: Product, like: Tensor, probes: int, generator: torch.Generator, steps: int = 20
) -> Density:
    """The distribution of the eigenvalues by stochastic Lanczos quadrature (arXiv 1901.10159).

    Args:
        product: Multiplies a vector by the matrix.
        like: A vector of the right length, type and device.
        probes: Number of random start vectors, at least 1.
        generator: Of random numbers on the CPU; the same on all ranks.
        steps: Products for each of them, at least 2: with m steps, averages of polynomials up to degree 2m - 1 are
            exact for that start vector.

    Raises:
        ValueError: if a number is out of range.
    """
    if probes < 1 or steps < 2:
        raise ValueError(f"a density takes at least 1 probe of 2 steps, got {probes} of {steps}")
    nodes, weights = [], []
    for _ in range(probes):
        lanczos = Lanczos(product, random_signs(like, generator))
        while len(lanczos.diagonal) < steps and not lanczos.exhausted:
            lanczos.step()
        values, columns = lanczos.ritz()
        nodes.append(values)
        weights.append(columns[0].square() / probes)
    order = torch.cat(nodes).argsort()
    return Density(tuple(torch.cat(nodes)[order].tolist()), tuple(torch.cat(weights)[order].tolist()))


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """A vector of +1 and -1 with equal chances."""
    signs = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return signs.to(like.device, like.dtype).mul_(2).sub_(1)
