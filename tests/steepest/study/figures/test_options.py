"""What a study file may say of its figures, and what is refused before anything runs."""

import pytest

from steepest.study.figures import check_figures
from tests.steepest.study.synthetic import make_study


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "pie"}, "there is no figure 'pie'; kinds: bars, curves"),
        ({"kind": "bars", "metrik": "x"}, "a figure of bars has no option 'metrik'; options: metric, by, mode"),
        ({"kind": "gallery"}, "a figure of gallery needs the option 'file'"),
        ({"kind": "curves", "by": "width"}, "there is no axis 'width'; axes: optimizer"),
        ({"kind": "sensitivity", "axis": "optimizer"}, "there is no axis or tuned option 'optimizer' with numbers"),
        ({"kind": "bars", "only": {"optimizer": "Adan"}}, "`only` of a figure names 'Adan', which is not one of SGD"),
        ({"kind": "curves", "x": "tim"}, "x of a figure of curves must be step or time, got 'tim'"),
        ({"kind": "panels", "metrics": "val/loss"}, "metrics of a figure of panels must be a list of names, got 'val/"),
        ({"kind": "profile", "clock": "days"}, "clock of a figure of profile must be step or seconds, got 'days'"),
        ({"kind": "layers", "when": "end"}, "when of a figure of layers must be run, first or last, got 'end'"),
        ({"kind": "bars", "mode": "most"}, "mode of a figure of bars must be max or min, got 'most'"),
        ({"kind": "curves", "log": "yes"}, "log of a figure of curves must be true or false, got 'yes'"),
        ({"kind": "bars", "metric": ["val/loss"]}, "metric of a figure of bars must be a name, got ['val/loss']"),
        (
            {"kind": "trajectories", "animate": None},
            "animate of a figure of trajectories must be true or false, got None",
        ),
        ({"kind": "gallery", "file": "a.svg"}, "file of a figure of gallery must end in .png or .gif, got 'a.svg'"),
        ({"kind": "bars", "only": "Adam"}, "`only` of a figure must hold labels by axis, got 'Adam'"),
    ],
)
def test_wrong_figures_are_refused_before_anything_runs(entry, message):
    with pytest.raises(ValueError, match=r"a_study\.yaml: ") as error:
        check_figures(make_study(figures=(entry,)))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "curves", "x": "time", "log": None, "metric": None},
        {"kind": "bars", "mode": "min"},
        {"kind": "panels", "metrics": ["val/loss"]},
        {"kind": "gallery", "file": "figures/a.gif"},
    ],
)
def test_right_values_of_options_pass(entry):
    check_figures(make_study(figures=(entry,)))
