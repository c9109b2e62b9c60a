"""Figures over width, read off their axes."""

import math

import pytest
import torch

from steepest.diagnostics.width.coordinate_check import CoordinateCheck, coordinate_figure
from steepest.diagnostics.width.transfer import WidthTransfer, transfer_figure
from tests.diagnostics.figures import curve


def test_activations_before_and_after_training() -> None:
    activations = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[9.0, 9.0], [9.0, 9.0]], [[5.0, 6.0], [7.0, 24.0]]])
    check = CoordinateCheck((1, 4), ("in", "out"), activations.double())
    before, after = coordinate_figure({"standard": check}).axes
    assert [curve(line) for line in before.lines] == [[(1, 1), (4, 3)], [(1, 2), (4, 4)]]
    assert [curve(line) for line in after.lines] == [[(1, 5), (4, 7)], [(1, 6), (4, 24)]]
    slopes = [f"{math.log(7 / 5) / math.log(4):+.2f}", "+1.00"]
    assert [line.get_label() for line in after.lines] == [f"in  {slopes[0]}", f"out  {slopes[1]}"]
    assert (before.get_title("left"), after.get_title("left")) == (
        "standard, before training",
        "standard, after 2 steps",
    )


def test_losses_over_the_rate_and_the_best_one() -> None:
    losses = torch.tensor([[3.0, 1.0, 3.0], [2.0, math.inf, 0.5]], dtype=torch.float64)
    found = WidthTransfer((1, 2), (0.1, 0.2, 0.4), losses)
    (axes,) = transfer_figure({"mup": found}).axes
    first, best, second, beside = axes.lines
    assert curve(first) == [(0.1, 3.0), (0.2, 1.0), (0.4, 3.0)]
    assert curve(second)[::2] == [(0.1, 2.0), (0.4, 0.5)]
    assert math.isnan(curve(second)[1][1])
    assert (best.get_xdata()[0], beside.get_xdata()[0]) == pytest.approx((0.2, 0.4))
    assert axes.get_title("left") == "mup: best rate shifts +1.00 octaves"
