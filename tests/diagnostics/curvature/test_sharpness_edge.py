"""The edge of stability (arXiv 2103.00065, 2207.14484) on a task small enough for one thread."""

from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.diagnostics.curvature.limits import StepRecorder, UnknownLimitError, linear_steps, weights_at
from steepest.diagnostics.curvature.operator import Curvature
from steepest.diagnostics.curvature.sharpness import measure_sharpness
from steepest.optim.spectral.muon import muon

pytestmark = pytest.mark.slow
EVERY = 25


def task() -> tuple[nn.Sequential, Tensor, Tensor]:
    """500 points of a mixture of ten Gaussians in 64 dimensions, one-hot classes."""
    torch.manual_seed(0)
    centers = 0.2 * torch.randn(10, 64)  # near each other: a run that is done too soon never gets to the edge
    classes = torch.arange(500) % 10
    inputs = centers[classes] + 0.5 * torch.randn(500, 64)
    network = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    return network, inputs, nn.functional.one_hot(classes, 10).float()


def ratios(make: Any, steps: int, of: str = "ratio") -> list[float]:
    """The ratio to the edge over the last half of a run on the whole batch."""
    network, inputs, targets = task()
    parameters: list[Tensor] = list(network.parameters())
    optimizer, found = make(network), []

    def loss() -> Tensor:
        return 0.5 * (network(inputs) - targets).square().sum(1).mean()

    recorder = StepRecorder([optimizer], wanted=lambda: wanted)
    for step in range(steps):
        wanted = step >= steps // 2 and step % EVERY == 0
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        if wanted:
            before = recorder.weights_before(parameters)
            update = torch.cat([(own.detach() - old).reshape(-1) for own, old in zip(parameters, before, strict=True)])
            with weights_at(parameters, before):
                try:
                    linear = linear_steps([optimizer], parameters)
                except UnknownLimitError:
                    linear = None
                measured = measure_sharpness(Curvature([loss], parameters), step=linear, update=update)
            assert measured.converged
            found.append(getattr(measured, of))
            recorder.clear()
    recorder.remove()
    return found


def sgd(lr: float, **options: Any) -> Any:
    return lambda network: torch.optim.SGD(network.parameters(), lr=lr, **options)


@pytest.mark.parametrize(
    "make",
    [
        sgd(0.4),
        sgd(0.7),
        sgd(0.4, momentum=0.9),
        sgd(0.2, momentum=0.9, nesterov=True),
        lambda network: torch.optim.Adam(network.parameters(), lr=0.01),
    ],
    ids=["lr 0.4", "lr 0.7", "momentum", "nesterov", "adam"],
)
def test_full_batch_training_settles_at_the_edge(make) -> None:
    assert 0.95 <= median(ratios(make, 1000)) <= 1.10


def test_a_small_rate_stays_away_from_it() -> None:
    assert max(ratios(sgd(0.2), 1000)) < 0.7


def test_at_the_edge_a_step_gains_nothing_for_gradient_descent_and_muon() -> None:
    assert median(ratios(sgd(0.4), 1000, of="directional_ratio")) == pytest.approx(1.0, abs=0.1)
    assert median(ratios(sgd(0.1), 600, of="directional_ratio")) < 0.5
    found = median(
        ratios(lambda network: muon(network, lr=0.02, momentum=0.0, nesterov=False), 600, "directional_ratio")
    )
    assert found == pytest.approx(1.0, abs=0.15)
