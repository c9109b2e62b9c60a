"""Trace and spectral density of a symmetric matrix from products with random vectors."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.curvature_lanczos import Lanczos

Product = Callable[[Tensor], Tensor]


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
