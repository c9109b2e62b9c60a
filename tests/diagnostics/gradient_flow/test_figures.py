import math

import numpy
import pytest
import torch
from torch import nn

from steepest.common.history import History
from steepest.common.plotting import MOST_TICKS, around, middle_limits
from steepest.diagnostics.gradient_flow import figures
from steepest.diagnostics.gradient_flow.flow import FIELDS, GradientFlow, gradient_flow
from tests.diagnostics.figures import edges, segments, shades


def history_of(layers: int, samples: int, planted: float | None = None) -> tuple[GradientFlow, History]:
    torch.manual_seed(0)
    module = nn.Sequential(*[nn.Linear(3, 3) for _ in range(layers)])
    history = History(FIELDS, by_layer=True)
    flow = None
    for step in range(samples):
        module.zero_grad()
        module(torch.randn(4, 3)).square().sum().backward()
        if planted is not None:
            module[0].weight.grad.fill_(planted)  # type: ignore[union-attr, operator]
        updates = [0.01 * parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        flow = gradient_flow(module.named_parameters(), updates=updates)
        history.append(10 * step + 10, flow)
    assert flow is not None
    return flow, history


@pytest.mark.parametrize("planted", [None, 0.0, math.nan, math.inf])
def test_every_layer_gets_a_bar_or_a_word(planted) -> None:
    flow, history = history_of(4, 3, planted)
    axes = figures.gradient_norms(flow, history).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "3"]
    words = [text.get_text() for text in axes.texts]
    expected = {None: [], 0.0: ["no gradient"]}.get(planted, ["not finite"])
    assert words == expected
    assert len(axes.patches) == len(flow.names) - len(words)
    foot, head = axes.get_xlim()
    ends = sorted(bar.get_x() + bar.get_width() for bar in axes.patches)  # type: ignore[attr-defined]
    finite = sorted(norm for norm in flow.gradient_norms if norm > 0 and math.isfinite(norm))
    assert ends == pytest.approx(finite)
    assert 0 < foot < finite[0]
    assert head > finite[-1]


@pytest.mark.parametrize(("layers", "samples"), [(2, 1), (100, 3)])
def test_heat_maps_show_every_parameter(layers, samples) -> None:
    flow, history = history_of(layers, samples)
    left, right = figures.heat_maps(flow, history).axes[:2]
    for axes, table in ((left, history["gradient_norms"]), (right, history["update_ratios"])):
        (mesh,) = axes.collections
        # Weights first, then biases.
        rows = [*range(0, 2 * layers, 2), *range(1, 2 * layers, 2)]
        expected = table[:, rows].log10().T.numpy()
        shown = numpy.ma.filled(mesh.get_array(), -math.inf).reshape(expected.shape)  # zeros are gray
        assert numpy.allclose(shown, expected)
        assert axes.get_ylim() == (2 * layers, 0)
    assert len(left.get_yticklabels()) <= MOST_TICKS


def flow_of(norms: list[list[float]], ratios: list[list[float]]) -> tuple[GradientFlow, History]:
    """Samples of a weight, a bias and a second weight."""
    history, flow = History(FIELDS, by_layer=True), None
    for step, (own, ratio) in enumerate(zip(norms, ratios, strict=True)):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1, bias=False))
        for parameter, norm in zip(module.parameters(), own, strict=True):
            with torch.no_grad():
                parameter.fill_(1.0)
            parameter.grad = torch.full_like(parameter, norm)
        updates = [torch.full_like(p, r) for p, r in zip(module.parameters(), ratio, strict=True)]
        flow = gradient_flow(module.named_parameters(), updates=updates)
        history.append((10, 20, 60)[step], flow)
    assert flow is not None
    return flow, history


def test_bars_and_ranges_are_the_norms() -> None:
    flow, history = flow_of([[0.5, 8.0, 3.0], [2.0, 4.0, 1.0], [1.0, 16.0, 2.0]], [[1e-3] * 3] * 3)
    axes = figures.gradient_norms(flow, history).axes[0]
    foot, head = axes.get_xlim()
    assert (foot, head) == pytest.approx((0.25, 32.0))  # half the smallest, twice the largest of the run
    middles = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]  # type: ignore[attr-defined]
    assert middles == pytest.approx([-0.2, 0.2, 1.0])  # weight and bias share the first layer's row
    assert [bar.get_x() + bar.get_width() for bar in axes.patches] == pytest.approx([1.0, 16.0, 2.0])  # type: ignore[attr-defined]
    expected = [(-0.2, 0.5, 2.0), (0.2, 4.0, 16.0), (1.0, 1.0, 3.0)]
    assert numpy.allclose(segments(axes), expected)


def test_the_columns_of_heat_maps_end_halfway_between_steps() -> None:
    flow, history = flow_of([[1.0, 1.0, 1.0]] * 3, [[1e-2, 1e-4, 1e-3]] * 3)
    left, right = figures.heat_maps(flow, history).axes[:2]
    assert edges(left) == edges(right) == [5.0, 15.0, 40.0, 80.0]
    assert numpy.allclose(shades(right), [[-2.0] * 3, [-3.0] * 3, [-4.0] * 3])  # weights first, then the bias
    low, high = right.collections[0].get_clim()
    assert (low + high) / 2 == pytest.approx(-3.0)
    assert high >= -2.0


def test_colors_of_norms_leave_out_the_strangest_in_a_hundred() -> None:
    norms = torch.logspace(-3, 3, 101)
    expected = (-3 + 0.02 * 6 - 0.05, 3 - 0.02 * 6 + 0.05)
    assert middle_limits(norms.log10()[:, None], margin=0.05) == pytest.approx(expected, abs=1e-4)
    assert middle_limits(torch.tensor([math.nan]), margin=0.0) is None
    assert around(-3.0, (-3.2, -3.1), reach=1.0) == (-4.0, -2.0)
