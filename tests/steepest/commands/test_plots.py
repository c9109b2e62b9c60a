"""Schedules are drawn as they are, into the files that were asked for."""

import pytest

from steepest.commands.list import schedules_figure
from steepest.optim import SCHEDULES
from steepest.optim.schedules import factor_function
from tests.steepest.failures import BAD_INPUT, check, files


def test_every_schedule_has_a_panel_with_its_factors() -> None:
    names = SCHEDULES.names()
    figure = schedules_figure(names)
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title(loc="left") for axes in panels] == names
    for name, axes in zip(names, panels, strict=True):
        factor = factor_function(SCHEDULES[name], 1000)
        progress, values = axes.lines[0].get_data()
        assert list(progress) == [step / 999 for step in range(1000)]
        assert list(values) == [factor(step) for step in range(1000)]
        assert axes.get_ylim()[0] < min(values) <= max(values) < axes.get_ylim()[1]
    assert figure.get_supxlabel()
    assert figure.get_supylabel()


@pytest.mark.parametrize(("name", "beginning"), [("all.png", b"\x89PNG"), ("all.SVG", b"<?xml")])
def test_the_suffix_says_the_format(steepest, tmp_path, name, beginning) -> None:
    outcome = steepest("list", "schedules", "--plot", name)
    assert (outcome.code, outcome.err, outcome.out) == (0, "", f"figure: {name}\n")
    assert (tmp_path / name).read_bytes().startswith(beginning)


def test_a_pattern_chooses_what_is_drawn(steepest, tmp_path) -> None:
    assert steepest("list", "schedules", "warm*", "--plot", "warm.svg").code == 0
    assert steepest("list", "schedules", "--plot", "all.svg").code == 0
    assert (tmp_path / "warm.svg").stat().st_size < (tmp_path / "all.svg").stat().st_size / 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["list", "schedules", "--plot", "all.pdf"], ["--plot", "all.pdf", ".png, .svg"]),
        (["list", "schedules", "--plot", "all"], ["--plot", "all", ".png, .svg"]),
        (["list", "schedules", "--plot", "nowhere/all.png"], ["--plot", "no folder nowhere"]),
        (["list", "optimizers", "--plot", "all.png"], ["--plot", "schedules", "optimizers"]),
        (["list", "schedules", "zz*", "--plot", "all.png"], ["'zz*'", "linear"]),
    ],
)
def test_what_cannot_be_drawn_ends_in_one_line(steepest, tmp_path, words, expected) -> None:
    check(steepest(*words), BAD_INPUT, expected)
    assert files(tmp_path) == set()
