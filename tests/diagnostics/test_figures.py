import json
import math
import os
import stat

import numpy
import pytest
import torch
from matplotlib.image import imread
from torch import nn

from diagnostics import figures
from diagnostics.artifacts import save_figure, save_json, write_atomically
from diagnostics.flow_history import FlowHistory
from diagnostics.gradient_flow import GradientFlow, gradient_flow


def history_of(layers: int, samples: int, planted: float | None = None) -> tuple[GradientFlow, FlowHistory]:
    torch.manual_seed(0)
    module = nn.Sequential(*[nn.Linear(3, 3) for _ in range(layers)])
    history = FlowHistory()
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
    for axes, table in ((left, history.gradient_norms), (right, history.update_ratios)):
        (mesh,) = axes.collections
        # Weights first, then biases.
        rows = [*range(0, 2 * layers, 2), *range(1, 2 * layers, 2)]
        expected = table[:, rows].log10().T.numpy()
        shown = numpy.ma.filled(mesh.get_array(), -math.inf).reshape(expected.shape)  # zeros are gray
        assert numpy.allclose(shown, expected)
        assert axes.get_ylim() == (2 * layers, 0)
    assert len(left.get_yticklabels()) <= figures.MOST_TICKS


def test_figures_are_written_whole(tmp_path) -> None:
    flow, history = history_of(2, 2)
    image = save_figure(figures.gradient_norms(flow, history), tmp_path / "figures", "norms")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["norms.png", "norms.svg"]
    assert imread(tmp_path / "figures" / "norms.png").shape[:2] == image.shape[:2]
    assert image.min() == 0
    assert image.max() == 255
    assert "</svg>" in (tmp_path / "figures" / "norms.svg").read_text()


def test_a_failed_write_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "file.txt"
    write_atomically(path, lambda temporary: temporary.write_text("old"))

    def fail(temporary) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_json_has_null_for_numbers_json_does_not_know(tmp_path) -> None:
    save_json({"a": [1.5, math.nan, (math.inf, 2)], "b": "text"}, tmp_path / "new" / "x.json")
    assert json.loads((tmp_path / "new" / "x.json").read_text()) == {"a": [1.5, None, [None, 2]], "b": "text"}
