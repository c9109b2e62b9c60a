"""Time and error of all spectral norms of a network, beside torch.linalg.svdvals.

Weights take a random walk of relative step 1e-3 between measurements, as in training; "spiked" ones have a few large
singular values over a random bulk, as trained layers do. CPU seconds on one thread, medians over the rounds.

    OMP_NUM_THREADS=1 python benchmarks/spectral_norms.py [--rounds 7]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from optimizer_step import GPT, resnet18
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from steepest.diagnostics.spectral.singular_values import matrix_norms, singular_values

WARM_STEPS = 2
"""As SpectralMonitor takes them."""


def matrices_of(network: nn.Module, spiked: bool) -> dict[str, Tensor]:
    found = {}
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2 and "tokens" not in name:
            matrix = parameter.detach().flatten(1).clone()
            if spiked:
                left, right = torch.randn(matrix.shape[0], 4), torch.randn(4, matrix.shape[1])
                scale = torch.tensor([4.0, 3.0, 2.5, 2.0]) * torch.linalg.matrix_norm(matrix, 2)
                matrix += torch.linalg.qr(left)[0] * scale[: left.shape[1]] @ torch.linalg.qr(right.T)[0].T
            found[name] = matrix
    return found


def walk(matrices: dict[str, Tensor]) -> None:
    for matrix in matrices.values():
        step = torch.randn_like(matrix)
        matrix += step * (1e-3 * matrix.norm() / step.norm())


def timed(compute: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.process_time()
    result = compute()
    return time.process_time() - start, result


def measure(matrices: dict[str, Tensor], rounds: int) -> dict[str, tuple[list[float], list[Tensor]]]:
    """Seconds and relative errors of every method, round after round."""
    starts: dict[str, Tensor] = matrix_norms(matrices, {}, exact=True, warm_steps=WARM_STEPS).vectors
    rows: dict[str, tuple[list[float], list[Tensor]]] = {}

    def warm() -> Tensor:
        found = matrix_norms(matrices, starts, exact=False, warm_steps=WARM_STEPS)
        starts.update(found.vectors)
        return found.values[1]

    methods: dict[str, Callable[[], Tensor]] = {
        "svdvals": lambda: torch.stack([torch.linalg.svdvals(matrix)[0] for matrix in matrices.values()]),
        "matrix_norm(ord=2)": lambda: torch.stack([torch.linalg.matrix_norm(m, 2) for m in matrices.values()]),
        "svdvals in float64": lambda: torch.stack(
            [torch.linalg.svdvals(matrix.double())[0] for matrix in matrices.values()]
        ),
        "ours, Gram matrix in float32": lambda: torch.stack(
            [singular_values(matrix[None], torch.float32)[0, 0] for matrix in matrices.values()]
        ),
        "ours, exact: all, in float64, and drift": lambda: matrix_norms(matrices, {}, True, WARM_STEPS).values[1],
        "ours, cold": lambda: matrix_norms(matrices, {}, False, WARM_STEPS).values[1],
        "ours, warm": warm,
    }
    for _ in range(rounds):
        walk(matrices)
        truth = torch.stack([torch.linalg.svdvals(matrix.double())[0] for matrix in matrices.values()])
        for name, method in methods.items():
            seconds, norms = timed(method)
            row = rows.setdefault(name, ([], []))
            row[0].append(seconds)
            row[1].append((norms.double() / truth - 1).abs())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table("network", "method", "CPU ms", "x faster", "worst error", "median error")
    for label, network in {"ResNet-18": resnet18(), "GPT, width 384": GPT(vocabulary=1)}.items():
        for spiked in (False, True):
            rows = measure(matrices_of(network, spiked), options.rounds)
            reference = rows["svdvals"][0]
            for name, (seconds, errors) in rows.items():
                gain = statistics.median(r / s for r, s in zip(reference, seconds, strict=True))
                error = torch.stack(errors)
                cells = f"{1000 * statistics.median(seconds):.1f}", f"{gain:.1f}"
                kind = f"{label}, {'spiked' if spiked else 'initial'}"
                table.add_row(kind, name, *cells, f"{error.max():.1e}", f"{error.median():.1e}")
            table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
