"""Time and products to the largest Hessian eigenvalue, beside PyHessian, hessian-eigenthings and scipy over curvlinops.

Three networks after some steps of training, one batch each. The reference value comes from scipy's eigsh at tolerance
1e-6 over our own products, so that it needs no peer. All contestants run in turn, round after round, on one thread;
times are CPU seconds, medians over the rounds. A library that is not installed is left out by name; `make bench`
installs all.

    OMP_NUM_THREADS=1 python benchmarks/largest_eigenvalue.py [--rounds 5] [--only MLP]
"""

import argparse
import contextlib
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import scipy.sparse.linalg  # pyright: ignore[reportMissingTypeStubs]
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from steepest.diagnostics.common.guards import undisturbed
from steepest.diagnostics.curvature.operator import Curvature
from steepest.diagnostics.curvature.sharpness import measure_sharpness
from steepest.lightning_modules.networks import ResNet18

GOAL = 0.01


class CausalBlock(nn.Module):
    """A pre-norm transformer block; attention by plain products, which all contestants can differentiate twice."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = torch.full((length, length), -1e9).triu(1)
        weights = (q @ k.mT / (width // self.heads) ** 0.5 + mask).softmax(-1)
        x = x + self.projection((weights @ v).transpose(1, 2).reshape(x.shape))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class SmallGPT(nn.Module):
    """4 blocks of width 128 over 65 symbols; logits in the shape (batch * length, symbols)."""

    def __init__(self, symbols: int = 65, width: int = 128, blocks: int = 4, length: int = 64) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(CausalBlock(width, 4) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x))).flatten(0, 1)


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    inputs = torch.randn(512, 784)
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)), inputs, inputs[:, :10].argmax(1)


def resnet18() -> tuple[nn.Module, Tensor, Tensor]:
    images = torch.randn(8, 3, 32, 32)
    return ResNet18(), images, images.mean((2, 3)).argmax(1)


def gpt() -> tuple[nn.Module, Tensor, Tensor]:
    tokens = (torch.arange(65).repeat(20) * 7 % 65)[torch.arange(16)[:, None] * 17 + torch.arange(65)]
    return SmallGPT(), tokens[:, :-1], tokens[:, 1:].flatten()


TASKS = {"MLP": mlp, "ResNet-18": resnet18, "small GPT": gpt}


@dataclass
class Problem:
    """A network in evaluation mode (PyHessian's choice, the same for all), and one batch."""

    network: nn.Module
    inputs: Tensor
    labels: Tensor

    def loss(self) -> Tensor:
        return nn.functional.cross_entropy(self.network(self.inputs), self.labels)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())


def problem(make: Callable[[], tuple[nn.Module, Tensor, Tensor]], steps: int = 30) -> Problem:
    torch.manual_seed(0)
    network, inputs, labels = make()
    trained = Problem(network, inputs, labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        trained.loss().backward()
        optimizer.step()
    optimizer.zero_grad()
    network.eval()
    return trained


# A contestant returns the eigenvalue and how many products it took.
Contestant = Callable[[Problem], tuple[float, int]]


def ours(problem: Problem) -> tuple[float, int]:
    with undisturbed(problem.network, "running"):
        result = measure_sharpness(Curvature([problem.loss], problem.parameters), tolerance=GOAL)
    return result.eigenvalues[0], result.products


def pyhessian(tolerance: float) -> Contestant:
    def run(problem: Problem) -> tuple[float, int]:
        from pyhessian import hessian  # pyright: ignore[reportMissingImports]

        count = 0

        def counted(*arguments: object) -> object:
            nonlocal count
            count += 1
            return product(*arguments)

        module: Any = sys.modules["pyhessian.hessian"]  # the package gives the class the same name
        product = module.hessian_vector_product
        module.hessian_vector_product = counted
        try:
            computed = hessian(problem.network, nn.CrossEntropyLoss(), (problem.inputs, problem.labels), cuda=False)
            (value,), _ = computed.eigenvalues(tol=tolerance)
        finally:
            module.hessian_vector_product = product
            problem.network.zero_grad()
        return value, count

    return run


def eigenthings(problem: Problem) -> tuple[float, int]:
    # Its default of two products for one eigenvalue is 90 % off; asked for the digits that are compared here.
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss  # pyright: ignore[reportMissingImports]

    loss = supervised_loss(nn.CrossEntropyLoss())
    operator = HessianOperator(problem.network, [(problem.inputs, problem.labels)], loss)
    result = lanczos(operator, k=1, max_iter=20, tol=GOAL, which="LA", seed=0)
    return float(result.eigenvalues[0]), int(result.iterations)


def largest_by_scipy(shape: tuple[int, int], product: Callable[[Any], Any], dtype: Any, tolerance: float) -> float:
    linalg: Any = scipy.sparse.linalg  # its types are wrong here
    operator = linalg.LinearOperator(shape, product, dtype=dtype)
    return float(linalg.eigsh(operator, k=1, which="LA", tol=tolerance, return_eigenvectors=False)[0])


def scipy_over_curvlinops(tolerance: float) -> Contestant:
    def run(problem: Problem) -> tuple[float, int]:
        from curvlinops import HessianLinearOperator  # pyright: ignore[reportMissingImports]

        data = [(problem.inputs, problem.labels)]
        hessian = HessianLinearOperator(
            problem.network, nn.CrossEntropyLoss(), problem.parameters, data, check_deterministic=False
        ).to_scipy()
        count = 0

        def counted(vector: object) -> object:
            nonlocal count
            count += 1
            return hessian @ vector

        return largest_by_scipy(hessian.shape, counted, hessian.dtype, tolerance), count

    return run


CONTESTANTS: dict[str, Contestant] = {
    "ours": ours,
    "PyHessian, tol 1e-3 (default)": pyhessian(1e-3),
    "PyHessian, tol 1e-2": pyhessian(1e-2),
    "hessian-eigenthings Lanczos": eigenthings,
    "scipy over curvlinops, tol 1e-2": scipy_over_curvlinops(1e-2),
}


@dataclass
class Row:
    seconds: list[float] = field(default_factory=list)
    products: list[int] = field(default_factory=list)
    error: float = 0.0


def reference(problem: Problem) -> float:
    """The largest eigenvalue by scipy over our products."""
    with undisturbed(problem.network, "running"):
        curvature = Curvature([problem.loss], problem.parameters)
        return largest_by_scipy(
            (curvature.size, curvature.size),
            lambda vector: curvature.product(torch.from_numpy(vector.ravel().astype("float32"))).numpy(),
            "float32",
            1e-6,
        )


def measure(problem: Problem, rounds: int) -> dict[str, Row]:
    truth = reference(problem)
    rows: dict[str, Row] = {}
    left_out: dict[str, str] = {}
    for _ in range(rounds):
        for name, contestant in CONTESTANTS.items():
            start = time.process_time()
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    value, products = contestant(problem)
            except ImportError as error:
                left_out[name] = f"{error.name or error} is not installed"
                continue
            row = rows.setdefault(name, Row())
            row.seconds.append(time.process_time() - start)
            row.products.append(products)
            row.error = max(row.error, abs(value / truth - 1))
    for name, reason in left_out.items():
        print(f"{name}: left out, {reason}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=TASKS, help="one network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of the libraries
    table = Table("network", "method", "CPU s", "of ours", "products", "largest error", title="Largest eigenvalue")
    for task in [options.only] if options.only else TASKS:
        rows = measure(problem(TASKS[task]), options.rounds)
        own = rows["ours"].seconds
        for name, row in rows.items():
            ratio = statistics.median(theirs / mine for theirs, mine in zip(row.seconds, own, strict=True))
            error = f"{row.error:.1e}{'' if row.error <= GOAL else ' (misses 1 %)'}"
            cells = f"{statistics.median(row.seconds):.3f}", f"{ratio:.2f}", f"{statistics.median(row.products):.0f}"
            table.add_row(task, name, *cells, error)
        table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
