"""Toy objectives from the command line: known answers of the diagnostics, resume, and refusals."""

import json
from typing import Any

import pytest
import torch

from steepest.callbacks import ObjectiveTrajectory
from steepest.lightning_modules import ToyObjective
from steepest.lightning_modules.objectives import Rosenbrock
from steepest.optim.classical.torch_optimizers import adam
from steepest.optim.schedules import warmup_cosine
from tests.conftest import REPOSITORY
from tests.end_to_end.test_resume import Kill, differences, scalars, train
from tests.steepest.failures import BAD_INPUT, check

TOY = """\
model: {class_path: ToyObjective, init_args: {objective: Rosenbrock, steps_per_epoch: 12}}
optimizer: {class_path: adam, init_args: {lr: 0.05}}
trainer:
  accelerator: cpu
  max_epochs: 2
  enable_model_summary: false
  enable_progress_bar: false
  callbacks+:  # figures take a second each, and are looked at elsewhere
  - {class_path: GradientFlowMonitor, init_args: {figures: false}}
  - {class_path: SpectralNormTracker, init_args: {figures: false}}
  - {class_path: UpdateDynamics, init_args: {figures: false}}
"""


@pytest.fixture
def toy(tmp_path) -> str:
    (tmp_path / "toy.yaml").write_text(TOY)
    return "toy.yaml"


def last_scalars(folder: Any) -> dict[str, float]:
    values = scalars(folder)
    return {tag: max(values[tag, step]) for tag, step in sorted(values, key=lambda key: key[1])}


def test_diagnostics_find_what_is_known(steepest, tmp_path, toy) -> None:
    words = ["--model.objective", "Quadratic", "--model.objective.eigenvalues", "[3, 8, 50]"]
    words += ["--model.objective.rotation_seed", "4", "--model.noise", "[1, 2, 3]", "--model.batch_size", "64"]
    words += ["--optimizer", "sgd", "--optimizer.lr", "1e-3", "--model.steps_per_epoch", "60"]
    for callback in ("SharpnessProbe", "GradientNoiseScale", "ObjectiveTrajectory"):
        words.append(f"--trainer.callbacks+={callback}")
        if callback != "ObjectiveTrajectory":
            words += ["--trainer.callbacks.every_n_steps", "1"]
    outcome = steepest("fit", "--config", toy, *words)
    assert (outcome.code, outcome.err) == (0, "")
    found = last_scalars(tmp_path / "runs/toy/version_0")
    assert found["sharpness/batch"] == pytest.approx(50.0, rel=1e-3)
    assert found["sharpness/threshold"] == pytest.approx(2 / 1e-3)
    assert found["noise/batch_trace"] == pytest.approx(1 + 4 + 9, rel=0.15)
    assert found["val/gap"] == pytest.approx(found["val/loss"])
    assert (tmp_path / "runs/toy/version_0/trajectory.npz").is_file()
    assert "gap to the minimum" in outcome.out
    assert "distance to the minimum" in outcome.out


def test_all_diagnostics_go_on_top_of_a_config_that_has_some(steepest, tmp_path) -> None:
    configs = [REPOSITORY / "configs/toy_quadratic.yaml", REPOSITORY / "configs/callbacks/full.yaml"]
    words = [word for config in configs for word in ("--config", config)]
    outcome = steepest("fit", *words, "--trainer.precision", "64-true", "--trainer.max_epochs", "2")
    assert outcome.code == 0, outcome.err
    found = scalars(tmp_path / "runs/toy_quadratic/version_0")
    steps = [step for tag, step in found if tag == "sharpness/batch"]
    assert steps == [20, 40]  # as the config on top says
    assert found["sharpness/batch_2", 40].pop() == pytest.approx(10.0, rel=1e-3)
    assert ("noise/batch_trace", 40) in found or ("spectral/max_norm", 40) in found


@pytest.mark.parametrize("optimizer", ["muon", "muon_adamw", "lion", "autosgm", "lbfgs", "sam"])
def test_any_optimizer_by_name(steepest, toy, optimizer) -> None:
    words = ["--optimizer", optimizer, "--optimizer.lr", "1e-3"]
    if optimizer == "muon":
        # Two weights are no matrix to it unless a rule says so.
        rule = "{name: '*.weight', ndim: 2, algorithm: muon}"
        check(steepest("fit", "--config", toy, *words), BAD_INPUT, ["no hidden matrix for muon", rule])
        words += ["--optimizer.rules", f"[{rule}]"]
    outcome = steepest("fit", "--config", toy, *words)
    assert (outcome.code, outcome.err) == (0, "")


def test_a_diverging_run_says_so(steepest, tmp_path, toy) -> None:
    outcome = steepest("fit", "--config", toy, "--optimizer", "sgd", "--optimizer.lr", "1")
    assert outcome.code == 0
    assert "nan" in outcome.out
    words = ["--trainer.callbacks+=ObjectiveTrajectory", "--model.objective.start", "[5, 5]"]
    assert steepest("fit", "--config", toy, "--optimizer", "sgd", "--optimizer.lr", "1", *words).code == 0
    assert (tmp_path / "runs/toy/version_1/figures/trajectory.png").is_file()


def test_other_commands_take_a_checkpoint(steepest, tmp_path, toy) -> None:
    assert steepest("fit", "--config", toy).code == 0
    gap = json.loads((tmp_path / "runs/toy/version_0/run.json").read_text())["metrics"]["val/gap"]
    for command, stage in (("validate", "val"), ("test", "test")):
        outcome = steepest(command, "--config", toy, "--ckpt_path", "last")
        assert (outcome.code, outcome.err) == (0, "")
        assert f"{stage}/gap" in outcome.out
        assert f"{gap:.3g}" in outcome.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.objective", "Rosenbrook"], ["Rosenbrook", "Rosenbrock"]),
        (["--model.objective.dimensions", "1"], ["dimensions must be a whole number, at least 2, got 1"]),
        (["--model.objective", "Quadratic", "--model.objective.eigenvalues", "[1, -2]"], ["above 0, got -2"]),
        (["--model.objective", "Quadratic", "--model.objective.eigenvalues", "[]"], ["at least one number, got none"]),
        (["--model.noise", "-1"], ["noise must be a number of at least 0"]),
        (["--model.steps_per_epoch", "0"], ["steps_per_epoch must be at least 1, got 0"]),
    ],
)
def test_wrong_input_ends_in_one_line(steepest, toy, words, said) -> None:
    check(steepest("fit", "--config", toy, *words), BAD_INPUT, said)


def test_a_path_needs_an_objective(steepest, tiny) -> None:
    outcome = steepest("fit", "--config", tiny, "--trainer.callbacks+=ObjectiveTrajectory")
    check(outcome, BAD_INPUT, ["ObjectiveTrajectory needs a model with a known objective"])


def toy_model() -> ToyObjective:
    return ToyObjective(Rosenbrock(3), noise=0.3, steps_per_epoch=9, optimizer=adam, schedule=warmup_cosine)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kill", "every"), [(18, None), (14, 1), (13, 2)])
def test_killed_and_resumed_is_uninterrupted(tmp_path, kill, every) -> None:
    def run(name: str, *callbacks: Any, **options: Any) -> dict[str, Any]:
        recorder = ObjectiveTrajectory(figures=False)
        return train(tmp_path / name, toy_model(), None, recorder, *callbacks, checkpoint_every=every, **options)

    expected = run("version_0")
    assert run("version_1", Kill(kill)) == {}
    found = run("version_2", resume=tmp_path / "version_1/checkpoints/last.ckpt")
    assert differences(expected, found) == []
    assert scalars(tmp_path / "version_1", tmp_path / "version_2") == scalars(tmp_path / "version_0")
    state = next(value for key, value in found["callbacks"].items() if "ObjectiveTrajectory" in key)
    assert state["trajectory"]["steps"] == list(range(28))
    assert torch.equal(state["trajectory"]["points"][-1], found["state_dict"]["objective.weight"].flatten())
