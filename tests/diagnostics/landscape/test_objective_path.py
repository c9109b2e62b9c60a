import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steepest.diagnostics.landscape.objective_path import ObjectivePath
from steepest.diagnostics.landscape.objective_path_figures import trajectory


class Bowl:
    """|w - (1, 2)|^2 + 3."""

    minima = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    minimum_value = 3.0
    limits: tuple[tuple[float, float], tuple[float, float]] | None = ((-2.0, 2.0), (0.0, 4.0))

    def value(self, points: Tensor) -> Tensor:
        return (points - self.minima[0].to(points)).square().sum(-1) + 3.0

    def distance(self, points: Tensor) -> Tensor:
        return (points - self.minima[0].to(points)).norm(dim=-1)


class Line(Bowl):
    limits = None


def walk(steps: int, max_rows: int = 5000) -> ObjectivePath:
    path = ObjectivePath(max_rows)
    for step in range(steps + 1):
        path.append(step, torch.tensor([[step / 10.0], [1.0]], dtype=torch.float64))
    return path


@given(st.integers(0, 400), st.integers(2, 40))
def test_memory_is_bounded_and_the_run_stays_covered(steps, max_rows) -> None:
    path = walk(steps, max_rows)
    assert len(path) <= max_rows
    assert path.steps[0] == 0
    assert path.newest == path.steps[-1] == steps
    gaps = numpy.diff(path.steps)
    assert all(gap == path.stride for gap in gaps[:-1])
    assert all(gap <= path.stride for gap in gaps)
    assert torch.equal(path.points[:, 0], torch.tensor(path.steps, dtype=torch.float64) / 10)
    if steps >= max_rows:
        assert len(path) > max_rows // 2 - 1


def test_copies_are_kept_and_go_through_a_state() -> None:
    weights = torch.zeros(2)
    path = ObjectivePath()
    path.append(0, weights)
    weights += 1
    path.append(1, weights)
    assert path.points.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    restored = ObjectivePath()
    restored.load_state_dict(path.state_dict())
    assert restored.steps == [0, 1]
    assert torch.equal(restored.points, path.points)
    restored.load_state_dict(ObjectivePath().state_dict())
    assert len(restored) == 0


def test_the_table_holds_the_surface_at_every_point() -> None:
    table = walk(30).table(Bowl())
    assert table["weights"].shape == (31, 2)
    expected = (table["weights"][:, 0] - 1) ** 2 + 1
    numpy.testing.assert_allclose(table["losses"], expected + 3)
    numpy.testing.assert_allclose(table["gaps"], expected)
    numpy.testing.assert_allclose(table["distances"], numpy.sqrt(expected))
    assert table["minima"].tolist() == [[1.0, 2.0]]


def test_the_figure_shows_the_path_and_follows_it_in_reason() -> None:
    figure = trajectory(walk(30).table(Bowl()), Bowl(), "Bowl")
    plane = next(axes for axes in figure.axes if axes.get_xlabel() == "first weight")
    labels = [text.get_text() for text in plane.get_legend().get_texts()]  # type: ignore[union-attr]
    assert set(labels) == {"path", "start", "end", "minimum"}
    assert plane.get_xlim()[1] == pytest.approx(3.0 + 0.03 * 4)  # the path ends at 3
    assert [axes.get_yscale() for axes in figure.axes if "minimum" in axes.get_ylabel()].count("log") >= 2
    far = walk(30)
    far.append(31, torch.tensor([1e9, float("nan")], dtype=torch.float64))
    far.append(32, torch.tensor([1e9, 5.0], dtype=torch.float64))
    plane = next(
        axes for axes in trajectory(far.table(Bowl()), Bowl(), "Bowl").axes if axes.get_xlabel() == "first weight"
    )
    assert plane.get_xlim()[1] == pytest.approx(6.0)
    assert len(trajectory(walk(3).table(Line()), Line(), "Line").axes) == 2


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="max_rows must be at least 2, got 1"):
        ObjectivePath(1)


def test_the_figure_holds_the_numbers_of_the_table() -> None:
    table = walk(30).table(Bowl())
    axes = trajectory(table, Bowl(), "Bowl").axes
    plane = next(each for each in axes if each.get_xlabel() == "first weight")
    lines = {str(line.get_label()): line.get_xydata() for line in plane.lines}
    numpy.testing.assert_allclose(lines["path"], table["weights"])
    numpy.testing.assert_allclose(lines["start"], table["weights"][:1])
    numpy.testing.assert_allclose(lines["end"], table["weights"][-1:])
    numpy.testing.assert_allclose(lines["minimum"], [[1.0, 2.0]])
    for key, label in (("gaps", "loss above its minimum"), ("distances", "distance to\nthe nearest minimum")):
        (over_steps,) = (each for each in axes if each.get_ylabel() == label and each.lines)
        numpy.testing.assert_allclose(over_steps.lines[0].get_xydata(), numpy.stack([table["steps"], table[key]], 1))
