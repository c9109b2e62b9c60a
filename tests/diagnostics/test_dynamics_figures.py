"""Figures of the update dynamics, read off their axes."""

import math

import numpy
import pytest
import torch
from torch import nn

from diagnostics.dynamics_figures import by_layer
from diagnostics.dynamics_recorder import DynamicsRecorder
from diagnostics.layer_history import LayerHistory
from diagnostics.update_dynamics import FIELDS
from diagnostics.updates import optimizer_parameters


@pytest.mark.parametrize("last_rate", [0.05, 0.0])
def test_a_last_step_that_moves_nothing_leaves_the_one_before_in_the_figure(last_rate):
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    recorder = DynamicsRecorder(
        [optimizer], lambda own: optimizer_parameters(network, own), wanted=lambda: True, measured=lambda: True
    )
    history = LayerHistory(FIELDS)
    for step, rate in enumerate((0.1, last_rate), 1):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        network(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        sample = recorder.sample()
        history.add(step, sample.names, sample.values)
        recorder.turn(keep=True)
    recorder.remove()
    rates = by_layer(sample, history).axes[0]
    (dots,) = [drawn for drawn in rates.collections if len(drawn.get_offsets()) == 2]
    shown = last_rate or 0.1
    numpy.testing.assert_allclose(numpy.asarray(dots.get_offsets())[:, 0], shown, rtol=1e-4)
    assert rates.get_xscale() == "log"
    assert math.isclose(sample.values["effective_lr"][0], last_rate, rel_tol=1e-4, abs_tol=1e-12)
