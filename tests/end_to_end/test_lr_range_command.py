"""`steepest lr_range_test`: what it writes and prints, and that the command it prints does what it says."""

import json
import shlex

import pytest
import yaml

from tests.steepest.failures import BAD_INPUT, check, files

FEW = ["--steps", "14", "--rates", "[1e-4, 1.0]"]


def record(path) -> list[dict]:
    return json.loads((path / "lr_range.json").read_text())["optimizers"]


def proposed(out: str) -> list[list[str]]:
    """The words of the commands that use the suggestions."""
    return [shlex.split(line.split("steepest", 1)[1]) for line in out.splitlines() if line.startswith("use it")]


def test_the_printed_command_trains_with_the_suggestion(steepest, tiny, tmp_path) -> None:
    outcome = steepest("lr_range_test", "--config", tiny, "--rule", "max_stable", *FEW, "--trainer.max_epochs", 2)
    assert (outcome.code, outcome.err) == (0, "")
    folder = tmp_path / "runs/tiny/version_0"
    assert {path.name for path in (folder / "figures").iterdir()} == {"lr_range.png", "lr_range.svg"}
    (found,) = record(folder)
    assert found["optimizer"] == "adamw"
    assert f"suggested learning rate {found['suggestion']:.3g} by max-stable" in outcome.out
    run = json.loads((folder / "run.json").read_text())
    assert (run["status"], run["global_step"]) == ("finished", 0)
    assert not (folder / "checkpoints").exists()
    (words,) = proposed(outcome.out)
    assert words[:5] == ["fit", "--config", tiny, "--trainer.max_epochs", "2"]
    assert steepest(*words).code == 0
    config = yaml.safe_load((tmp_path / "runs/tiny/version_1/config.yaml").read_text())
    assert config["optimizer"]["init_args"]["lr"] == pytest.approx(found["suggestion"], rel=1e-3)


def test_optimizers_and_seeds_are_overlaid(steepest, tiny, tmp_path) -> None:
    optimizers = "[sgd, {class_path: muon_sgd, init_args: {lr: 0.1, inner_solver: admm}}, {class_path: sam}]"
    words = ["--optimizers", optimizers, "--seeds", "[0, 3]", "--rule", "max_stable", "--steps", "6"]
    outcome = steepest("lr_range_test", "--config", tiny, *words)
    assert (outcome.code, outcome.err) == (0, "")
    found = record(tmp_path / "runs/tiny/version_0")
    assert [own["optimizer"] for own in found] == ["sgd", "muon_sgd", "sam"]
    for own in found:
        assert [curve["seed"] for curve in own["curves"]] == [0, 3]
        # Another seed is another initialization and another order; another optimizer starts from the same one.
        assert own["curves"][0]["losses"][0] != own["curves"][1]["losses"][0]
        assert own["curves"][0]["losses"][0] == found[0]["curves"][0]["losses"][0]
    assert found[1]["curves"][0]["learning_rates"][0] == pytest.approx(1e-5)
    commands = proposed(outcome.out)
    assert ["--optimizer.inner_solver", "admm"] == commands[1][-4:-2]
    assert steepest(*commands[1]).code == 0


def test_a_seed_is_the_run_of_that_seed(steepest, tiny, tmp_path) -> None:
    assert steepest("lr_range_test", "--config", tiny, "--seeds", "[3]", *FEW).code == 0
    assert steepest("lr_range_test", "--config", tiny, "--seed_everything", "3", *FEW).code == 0
    first, second = (record(tmp_path / f"runs/tiny/version_{index}")[0]["curves"] for index in range(2))
    assert first == second


def test_the_envelope(steepest, tiny, tmp_path) -> None:
    outcome = steepest("lr_range_test", "--config", tiny, "--mode", "envelope", "--steps", "8", "--values", "3")
    assert outcome.code == 0
    (found,) = record(tmp_path / "runs/tiny/version_0")
    assert [trial["learning_rate"] for trial in found["trials"]] == pytest.approx([1e-3, 0.0447, 2.0], rel=1e-2)
    assert "use it" not in outcome.out
    assert "stable" in outcome.out


def test_the_suggestion_of_a_fit_is_that_of_the_command(steepest, tiny, tmp_path) -> None:
    steepest("lr_range_test", "--config", tiny, *FEW, "--rule", "max_stable")
    test = ["--trainer.callbacks+=LRRangeTest", "--trainer.callbacks.steps", "14"]
    test += ["--trainer.callbacks.rates", "[1e-4, 1.0]", "--trainer.callbacks.rule", "max_stable"]
    assert steepest("fit", "--config", tiny, *test, "--trainer.callbacks.apply", "true").code == 0
    command, callback = (record(tmp_path / f"runs/tiny/version_{index}")[0] for index in range(2))
    assert callback["curves"][0]["losses"] == command["curves"][0]["losses"]
    assert callback["suggestion"] == command["suggestion"]


def test_from_a_checkpoint(steepest, tiny, tmp_path) -> None:
    assert steepest("fit", "--config", tiny).code == 0
    more = ["--ckpt_path", "last", "--trainer.max_epochs", "2"]
    outcome = steepest("lr_range_test", "--config", tiny, *more, *FEW)
    assert outcome.code == 0, outcome.err
    steepest("lr_range_test", "--config", tiny, *FEW)
    trained, fresh = (record(tmp_path / f"runs/tiny/version_{index}")[0]["curves"][0] for index in (1, 2))
    assert trained["losses"][0] < fresh["losses"][0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rates", "[1, 0.1]"], ["range must rise", "got 1 to 0.1"]),
        (["--steps", "0"], ["steps must be at least 2, got 0"]),
        (["--rule", "best"], ["--rule", "'steepest'", "got best"]),
        (["--optimizers", "[adamx]"], ["unknown optimizer 'adamx'. Did you mean 'adam'?"]),
        (["--optimizers", "[]"], ["at least one"]),
        (["--optimizer.lr", "0"], ["learning rate is 0"]),
        (["--trainer.max_epochs", "0"], ["no training step to test", "--trainer.max_epochs"]),
        (["--seeds", "[1, 1]"], ["seeds must be different", "[1, 1]"]),
        (["--optimizers", "[adamw]", "--ckpt_path", "last"], ["last.ckpt"]),
    ],
)
def test_wrong_options_end_in_one_line(steepest, tiny, tmp_path, words, expected) -> None:
    before = files(tmp_path)
    check(steepest("lr_range_test", "--config", tiny, *words), BAD_INPUT, expected)
    assert files(tmp_path) == before
