"""Coordinate check and width transfer against functions whose answers are known."""

import math

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from steepest.diagnostics.width.coordinate_check import CoordinateCheck, coordinate_check, coordinate_figure
from steepest.diagnostics.width.transfer import WidthTransfer, best_rates, transfer_figure


class Power(nn.Module):
    """A layer of size width^a, and one that dropout would change."""

    def __init__(self, width: float, exponent: float) -> None:
        super().__init__()
        self.first = nn.Linear(1, 1, bias=False)
        self.last = nn.Linear(1, 1, bias=False)
        self.dropout = nn.Dropout(0.5)
        nn.init.constant_(self.first.weight, width**exponent)
        nn.init.constant_(self.last.weight, -1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dropout(self.first(x)))


def square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


BATCHES = [(torch.full((4, 1), 2.0), torch.zeros(4, 1)), (torch.full((4, 1), -1.0), torch.zeros(4, 1))]


def frozen(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.0)


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.5])
def test_the_exponent_of_a_power_law(exponent: float) -> None:
    check = coordinate_check(lambda width: Power(width, exponent), frozen, square, BATCHES, [1, 3, 4], 2, (0, 1))
    assert check.layers == ("first", "last")
    assert check.activations.shape == (3, 3, 2)
    expected = torch.tensor([2 * width**exponent for width in (1, 3, 4)], dtype=torch.float64)
    torch.testing.assert_close(check.activations, expected.view(1, 3, 1).expand(3, 3, 2), rtol=1e-6, atol=0)
    assert check.slopes() == pytest.approx({"first": exponent, "last": exponent}, abs=1e-6)


def test_activations_after_each_step_are_those_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()

    def build(width: float) -> nn.Sequential:
        return nn.Sequential(nn.Linear(1, int(width)), nn.Tanh(), nn.Dropout(0.3), nn.Linear(int(width), 1))

    check = coordinate_check(
        build, lambda module: torch.optim.SGD(module.parameters(), lr=0.1), square, BATCHES, [2, 5], 3, [7]
    )
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(7)
    module = build(5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(4):
        hidden = module[0](BATCHES[0][0])
        outputs = module[3](hidden.tanh())
        expected = torch.stack([hidden.abs().mean(), outputs.abs().mean()]).double()
        torch.testing.assert_close(check.activations[step, 1], expected, rtol=1e-6, atol=0)
        optimizer.zero_grad()
        square(module(BATCHES[step % 2][0]), BATCHES[step % 2][1]).backward()
        optimizer.step()


def test_an_activation_of_zero_has_no_exponent() -> None:
    check = CoordinateCheck((1, 2), ("zero", "one"), torch.tensor([[[0.0, 1.0], [0.0, 1.0]]], dtype=torch.float64))
    slopes = check.slopes()
    assert math.isnan(slopes["zero"])
    assert slopes["one"] == 0
    assert isinstance(coordinate_figure({"a": check}), Figure)


def test_bad_arguments_are_refused() -> None:
    def run(widths=(1, 2), steps=1, batches=BATCHES, build=lambda width: Power(width, 0)) -> None:
        coordinate_check(build, frozen, square, batches, widths, steps)

    for options, message in (
        ({"widths": (2, 2)}, r"widths must be at least two different positive numbers, not \[2, 2\]"),
        ({"widths": (0, 2)}, r"widths must be at least two different positive numbers, not \[0, 2\]"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"batches": []}, "the coordinate check needs at least one batch and one seed"),
        ({"build": lambda width: nn.Sequential(*(nn.Linear(1, 1) for _ in range(width)))}, "must have the same layers"),
        ({"build": lambda width: nn.ModuleDict({"a": nn.Linear(1, 1)})}, None),
    ):
        with pytest.raises(ValueError if message else NotImplementedError, match=message):
            run(**options)


class Quadratic(nn.Module):
    """Ends where the learning rate put it: the loss of a run is (log2 lr - best)^2 + 1, whatever the batch."""

    def __init__(self, best: float) -> None:
        super().__init__()
        self.best = best
        self.rate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.rate - self.best


class SetsRate(torch.optim.SGD):
    def step(self, closure=None):
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.fill_(math.log2(self.param_groups[0]["lr"]))


def transfer(optima: dict[float, float], rates: list[float]) -> WidthTransfer:
    return best_rates(
        lambda width: Quadratic(optima[width]), lambda module, lr: SetsRate(module.parameters(), lr=lr),
        lambda outputs, targets: outputs.square() + 1, 8 * BATCHES[:1], list(optima), rates,
    )  # fmt: skip


def test_the_lowest_point_of_a_parabola_is_found_between_the_rates() -> None:
    # Unequal intervals too: the loss is a parabola in log rate, so its lowest point is met exactly.
    found = transfer({1: -3.3, 4: -1.8}, [2.0**-5, 2.0**-4, 2.0**-2.5, 2.0**-2, 2.0**-1])
    assert [math.log2(rate) for rate in found.best] == pytest.approx([-3.3, -1.8])
    assert found.shift == pytest.approx(1.5)
    assert found.losses[0, 0].item() == pytest.approx(1.7**2 + 1)
    assert isinstance(transfer_figure({"a": found}), Figure)


def test_a_best_rate_at_the_edge_stays_there() -> None:
    found = transfer({1: -9.0, 2: 5.0}, [0.125, 0.25, 0.5])
    assert found.best == [0.125, 0.5]


def test_runs_that_diverge_count_as_infinitely_bad() -> None:
    losses = torch.tensor([[3.0, 1.0, math.inf]], dtype=torch.float64)
    assert WidthTransfer((1,), (0.1, 0.2, 0.4), losses).best == [0.2]
    found = best_rates(
        lambda width: nn.Linear(1, 1), lambda module, lr: torch.optim.SGD(module.parameters(), lr=lr), square,
        60 * BATCHES[:1], [1], [1e-3, 1e-2, 1e3],
    )  # fmt: skip
    assert found.losses[0, 2] == math.inf
    assert torch.isfinite(found.losses[0, :2]).all()


@pytest.mark.parametrize("rates", [[0.1, 0.2], [0.2, 0.1, 0.3], [0.1, 0.1, 0.2], [-0.1, 0.1, 0.2]])
def test_bad_rates_are_refused(rates: list[float]) -> None:
    with pytest.raises(ValueError, match="rates must be at least three positive numbers, ascending, not"):
        transfer({1: 0.0}, rates)
