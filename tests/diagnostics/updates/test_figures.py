"""Figures of the update dynamics, read off their axes."""

import math

import numpy
import pytest
import torch
from torch import nn

from steepest.common.history import History
from steepest.diagnostics.updates.dynamics import FIELDS, DynamicsSample
from steepest.diagnostics.updates.figures import by_layer, heat_maps
from steepest.diagnostics.updates.recorders import DynamicsRecorder, optimizer_parameters
from tests.diagnostics.figures import dots, edges, segments, shades


@pytest.mark.parametrize("last_rate", [0.05, 0.0])
def test_a_last_step_that_moves_nothing_leaves_the_one_before_in_the_figure(last_rate):
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    recorder = DynamicsRecorder(
        [optimizer], lambda own: optimizer_parameters(network, own), wanted=lambda: True, measured=lambda: True
    )
    history = History(FIELDS, by_layer=True)
    for step, rate in enumerate((0.1, last_rate), 1):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        network(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        sample = recorder.sample()
        history.add(step, sample.values, sample.names)
        recorder.turn(keep=True)
    recorder.remove()
    rates = by_layer(sample, history).axes[0]
    (dots,) = [drawn for drawn in rates.collections if len(drawn.get_offsets()) == 2]
    shown = last_rate or 0.1
    numpy.testing.assert_allclose(numpy.asarray(dots.get_offsets())[:, 0], shown, rtol=1e-4)
    assert rates.get_xscale() == "log"
    assert math.isclose(sample.values["effective_lr"][0], last_rate, rel_tol=1e-4, abs_tol=1e-12)


NAMES, ROLES = ("a.weight", "a.bias", "b.weight"), ("weight", "bias", "weight")


def samples() -> tuple[DynamicsSample, History]:
    nan = math.nan
    rows = [
        {
            "effective_lr": (0.1, 0.4, 0.2), "relative_size": (1e-3, 1e-2, 1e-4),
            "cosine_to_gradient": (0.5, 1.0, -0.25), "cosine_to_previous": (nan, nan, nan),
            "drift": (10.0, nan, 30.0), "drift_from_start": (10.0, nan, 30.0),
        },
        {
            "effective_lr": (0.3, 0.1, 0.2), "relative_size": (1e-2, 1e-3, 1e-3),
            "cosine_to_gradient": (0.75, 0.5, -0.5), "cosine_to_previous": (0.5, -0.5, 0.0),
            "drift": (nan, nan, nan), "drift_from_start": (nan, nan, nan),
        },
    ]  # fmt: skip
    history = History(FIELDS, by_layer=True)
    for step, values in zip((10, 30), rows, strict=True):
        history.add(step, values, NAMES)
    return DynamicsSample(NAMES, ROLES, rows[-1]), history  # type: ignore[arg-type]


def test_by_layer_shows_last_values_and_ranges() -> None:
    rates, sizes, cosines, turns = by_layer(*samples()).axes
    # Weights first: a.weight, b.weight, a.bias.
    assert numpy.allclose(dots(rates.collections[1]), [(0.3, 0), (0.2, 1), (0.1, 2)])
    assert numpy.allclose(segments(rates), [(0, 0.1, 0.3), (1, 0.2, 0.2), (2, 0.1, 0.4)])
    assert numpy.allclose(dots(sizes.collections[1]), [(1e-2, 0), (1e-3, 1), (1e-3, 2)])
    assert numpy.allclose(segments(sizes), [(0, 1e-3, 1e-2), (1, 1e-4, 1e-3), (2, 1e-3, 1e-2)])
    bars = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in cosines.patches]  # type: ignore[attr-defined]
    expected = [(-0.2, 0.75), (0.8, -0.5), (1.8, 0.5), (0.2, 0.5), (1.2, 0.0), (2.2, -0.5)]
    assert numpy.allclose(bars, expected)
    ranges = [(-0.2, 0.5, 0.75), (0.8, -0.5, -0.25), (1.8, 0.5, 1.0), (0.2, 0.5, 0.5), (1.2, 0, 0), (2.2, -0.5, -0.5)]
    assert numpy.allclose(segments(cosines), ranges)
    # Subspaces were not looked at in the last sample: the newest value is shown.
    assert [bar.get_width() for bar in turns.patches] == [10.0, 30.0, 10.0, 30.0]  # type: ignore[attr-defined]


def test_heat_maps_show_every_field_at_its_steps() -> None:
    maps = {axes.get_title(loc="left"): axes for axes in heat_maps(*samples()).axes if axes.get_title(loc="left")}
    rates = maps["Effective learning rate"]
    assert numpy.allclose(shades(rates), numpy.log10([[0.1, 0.3], [0.2, 0.2], [0.4, 0.1]]))
    assert edges(rates) == [0.0, 20.0, 40.0]
    assert numpy.allclose(shades(maps["Cosine to the negative gradient"]), [[0.5, 0.75], [-0.25, -0.5], [1.0, 0.5]])
    turns = maps["Rotation of the leading subspaces"]
    assert numpy.allclose(shades(turns), [[10.0], [30.0], [math.nan]], equal_nan=True)
    assert edges(turns) == [9.5, 10.5]
    low, high = maps["Relative size"].collections[0].get_clim()
    assert (low + high) / 2 == pytest.approx(-3.0)
