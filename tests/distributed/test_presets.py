"""Each preset layers on a task's config."""

import json

import pytest
import yaml

from tests.distributed.processes import REPOSITORY

TASK = REPOSITORY / "configs" / "digits_mlp.yaml"
PRESETS = sorted((REPOSITORY / "configs" / "presets").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_preset_keeps_what_it_does_not_set(steepest, preset) -> None:
    outcome = steepest("fit", "--config", TASK, "--config", preset, "--print_config")
    assert (outcome.code, outcome.err) == (0, "")
    chosen, task, set_by_preset = (yaml.safe_load(text) for text in (outcome.out, TASK.read_text(), preset.read_text()))
    assert set_by_preset["trainer"].items() <= chosen["trainer"].items()
    assert chosen["optimizer"]["init_args"]["lr"] == task["optimizer"]["init_args"]["lr"]
    expected = {**task["trainer"], **set_by_preset["trainer"]}
    assert expected.items() <= chosen["trainer"].items()
    assert preset.read_text().startswith("# ")


def test_debug_runs_a_few_steps(steepest, tmp_path) -> None:
    outcome = steepest("fit", "--config", TASK, "--config", PRESETS_BY_NAME["debug"])
    assert outcome.code == 0, outcome.err
    run = tmp_path / "runs" / "digits_mlp" / "version_0"
    assert json.loads((run / "run.json").read_text())["global_step"] == 16
    assert not (run / "checkpoints").exists()


def test_overfit_drives_the_training_loss_to_zero(steepest, tmp_path) -> None:
    outcome = steepest("fit", "--config", TASK, "--config", PRESETS_BY_NAME["overfit"])
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "runs" / "digits_mlp" / "version_0" / "run.json").read_text())
    assert record["global_step"] == 200
    assert record["metrics"]["train/epoch_loss"] < 0.01


PRESETS_BY_NAME = {path.stem: path for path in PRESETS}
