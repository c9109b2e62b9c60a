import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from steepest import callbacks, datamodules
from steepest.commands.list import KINDS
from steepest.lightning_modules import networks, objectives
from steepest.optim import CLIPPINGS, OPTIMIZERS, SCHEDULES
from steepest.optim.spectral.solvers import SOLVERS
from steepest.shipped import shipped


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("optimizers", OPTIMIZERS.names()),
        ("solvers", list(SOLVERS)),
        ("schedules", SCHEDULES.names()),
        ("clippings", CLIPPINGS.names()),
        ("models", ["ImageClassifier", "ToyObjective", *networks.__all__, *objectives.__all__]),
        ("data", datamodules.__all__),
        ("callbacks", callbacks.__all__),
        ("configs", list(shipped())),
        ("studies", list(shipped("studies"))),
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
    kinds = {"optimizers", "solvers", "schedules", "clippings", "models", "data", "callbacks", "configs", "studies"}
    assert set(KINDS) == kinds
    assert steepest("list", "--help").code == 0


def test_pattern(steepest):
    out = steepest("list", "optimizers", "ADAM*").out
    assert "adamw" in out
    assert "sgd" not in out


@pytest.mark.parametrize("kind", ["optimizers", "callbacks", "models", "configs"])
def test_nothing_is_cut_off_in_a_narrow_terminal(steepest, monkeypatch, kind):
    monkeypatch.setenv("COLUMNS", "80")
    out = steepest("list", kind).out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80


def names(out: str) -> list[str]:
    rows = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    return [name for name in rows if name]


def test_wildcards_find_names_and_aliases(steepest):
    assert {"muon", "muon_adamw", "muon_sgd"} <= set(names(steepest("list", "optimizers", "*muon*").out))
    assert names(steepest("list", "optimizers", "*heavy*").out) == ["momentum", "reference_momentum"]


def test_configs_are_found_below_their_folder(steepest):
    assert names(steepest("list", "configs", "presets/*").out) == ["presets/ddp", "presets/debug", "presets/overfit"]
    assert names(steepest("list", "studies", "AUTOSGM*resnet18").out) == ["autosgm_vs_adam_resnet18"]


def test_families_are_one_row_until_they_are_asked_for(steepest):
    pytest.importorskip("pytorch_optimizer", reason="needs the extra zoo")
    assert "zoo_*" in names(steepest("list", "optimizers").out)
    assert "zoo_lion" in names(steepest("list", "optimizers", "zoo_l*").out)


def test_a_family_that_is_not_installed_says_how_to_get_it(steepest, monkeypatch):
    monkeypatch.setattr(
        "steepest.optim.libraries.families.EXTRAS", {"zoo": "no_such", "timm": "no_such", "schedule_free": "no_such"}
    )
    out = steepest("list", "optimizers").out
    assert "pip install 'steepest[zoo]'" in out
    assert "pip install 'steepest[schedule_free]'" in out


def test_explain_says_which_algorithm_and_rate_each_parameter_gets(steepest):
    out = steepest("list", "optimizers", "muon", "--explain", "SmallCNN").out
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (r.split("│") for r in out.splitlines() if r.startswith("│"))
    }
    assert rows["conv1.weight"][3] == "adamw"
    assert rows["conv2.weight"][3] == "muon"
    assert rows["hidden.weight"][3:6] == ["muon", "0.001", "0.01"]
    assert rows["output.weight"][1] == "head"


def test_the_same_table_stands_in_tensorboard(steepest, tiny, tmp_path):
    assert steepest("fit", "--config", tiny, "--optimizer", "muon", "--trainer.max_steps", "2").code == 0
    accumulator = EventAccumulator(str(tmp_path / "runs/tiny/version_0"), {"tensors": 0})
    accumulator.Reload()
    (event,) = accumulator.Tensors("optimizer/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert "| parameter | shape | role | group | algorithm | learning rate | decay | reason |" in text
    assert text.count("\n") > 3
    assert "| muon |" in text
    assert "adamw: muon is for hidden matrices" in text


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
