import pytest

from optim import CLIPPINGS, OPTIMIZERS, SCHEDULES
from steepest.listing import KINDS


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("optimizers", OPTIMIZERS.names()),
        ("schedules", SCHEDULES.names()),
        ("clippings", CLIPPINGS.names()),
        ("models", ["ImageClassifier", "DeepMLP", "SimpleMLP", "SmallCNN"]),
        ("data", ["Digits", "MNIST", "FashionMNIST"]),
        ("callbacks", ["Checkpoints", "GradientFlowMonitor", "LearningRateTracker"]),
    ],
)
def test_lists_every_name_with_its_first_line(steepest, kind, names):
    outcome = steepest("list", kind)
    assert (outcome.code, outcome.err) == (0, "")
    rows = [line.split("│")[1:3] for line in outcome.out.splitlines() if line.startswith("│")]
    listed = {name.strip(): text.strip() for name, text in rows if name.strip()}
    assert set(names) <= set(listed)
    assert all(listed.values())


def test_all_kinds_are_tested(steepest):
    assert set(KINDS) == {"optimizers", "schedules", "clippings", "models", "data", "callbacks"}
    assert steepest("list", "--help").code == 0


def test_pattern(steepest):
    out = steepest("list", "optimizers", "ADAM*").out
    assert "adamw" in out
    assert "sgd" not in out


def test_options_that_a_class_passes_on_are_listed(steepest):
    assert "batch_size=128" in steepest("list", "data", "Digits").out


def test_explain_names_every_parameter_with_its_role(steepest):
    out = steepest("list", "optimizers", "adamw", "--explain", "SimpleMLP").out
    for name in ("hidden1.weight", "hidden1.bias", "output.weight", "output.bias"):
        assert name in out
    assert "784x128" in out or "128x784" in out


def test_explain_takes_an_import_path(steepest, tmp_path):
    (tmp_path / "own_network.py").write_text(
        "from torch import nn\n\nclass Own(nn.Sequential):\n"
        "    def __init__(self) -> None:\n        super().__init__(nn.Linear(3, 5))\n"
    )
    assert "5x3" in steepest("list", "optimizers", "sgd", "--explain", "own_network.Own").out


@pytest.mark.parametrize("network", ["torch.nn.Linear", "fractions.Fraction"])
def test_explain_refuses_what_is_no_network_without_arguments(steepest, network):
    outcome = steepest("list", "optimizers", "--explain", network)
    assert outcome.code == 2
    assert network in outcome.err
