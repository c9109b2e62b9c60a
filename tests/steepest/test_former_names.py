"""Import paths from before all of Steepest was below `steepest`."""

import sys
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from steepest.former_names import looked_into, present_path, use_present_paths
from tests.steepest.failures import BAD_INPUT, check

REPOSITORY = Path(__file__).resolve().parents[2]

FORMER = """\
model:
  class_path: lightning_modules.ImageClassifier
  init_args:
    network: {class_path: lightning_modules.networks.SimpleMLP, init_args: {hidden: 8}}
data: {class_path: datamodules.Digits, init_args: {batch_size: 64}}
optimizer: {class_path: optim.registry.adamw, init_args: {lr: 2.0e-3}}
schedule: {class_path: optim.registry.constant}
trainer:
  accelerator: cpu
  max_epochs: 2
  limit_train_batches: 3
  limit_val_batches: 1
  enable_model_summary: false
  enable_progress_bar: false
  callbacks:
  - {class_path: callbacks.GradientFlowMonitor, init_args: {figures: false}}
  - {class_path: callbacks.Checkpoints}
"""


@pytest.fixture
def elsewhere() -> list[str]:
    """The path of modules without this checkout, whose folders have the former names."""
    return [entry for entry in sys.path if Path(entry).resolve() != REPOSITORY]


def former(value):
    """What was stored before: the same without `steepest.` in front of every import path."""
    if isinstance(value, dict):
        return {former(key): former(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(former, value))
    return value.replace("steepest.", "") if isinstance(value, str) else value


def weights(path):
    return torch.load(path, weights_only=False)["state_dict"]


def test_configs_and_checkpoints_with_former_names_still_work(steepest, tmp_path):
    (tmp_path / "before.yaml").write_text(FORMER)
    (tmp_path / "now.yaml").write_text(FORMER.replace("class_path: ", "class_path: steepest."))
    for name in ("before", "now"):
        outcome = steepest("fit", "--config", f"{name}.yaml")
        assert outcome.code == 0, outcome.err
    last = "version_0/checkpoints/last.ckpt"
    assert "steepest.callbacks.GradientFlowMonitor" in (tmp_path / "runs/before/version_0/config.yaml").read_text()
    whole = weights(tmp_path / "runs/now" / last)
    assert all(torch.equal(each, whole[name]) for name, each in weights(tmp_path / "runs/before" / last).items())

    steepest("fit", "--config", "before.yaml", "--name", "half", "--trainer.max_steps", "3")
    path = tmp_path / "runs/half" / last
    content = torch.load(path, weights_only=False)
    content["steepest"]["chosen"] = former(content["steepest"]["chosen"])
    assert content["steepest"]["chosen"]["optimizer"]["class_path"] == "optim.registry.adamw"
    content["callbacks"] = former(content["callbacks"])
    torch.save(content, path)
    for number, config in enumerate(("before.yaml", "now.yaml"), start=1):
        outcome = steepest("fit", "--config", config, "--name", "rest", "--ckpt_path", path)
        assert outcome.code == 0, outcome.err
        resumed = weights(tmp_path / f"runs/rest/version_{number - 1}/checkpoints/last.ckpt")
        assert all(torch.equal(each, whole[name]) for name, each in resumed.items())


def test_a_users_own_package_goes_first(tmp_path, monkeypatch, elsewhere):
    # In a checkout the folder `callbacks` may be on the path; it must not be taken for a user's.
    for path in (elsewhere, [str(REPOSITORY), *elsewhere]):
        monkeypatch.setattr(sys, "path", path)
        assert present_path("callbacks.Checkpoints") == "steepest.callbacks.Checkpoints"
    assert present_path("steepest.callbacks.Checkpoints") == "steepest.callbacks.Checkpoints"
    assert present_path("torch.optim.SGD") == "torch.optim.SGD"
    (tmp_path / "callbacks").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *elsewhere])
    assert present_path("callbacks.Checkpoints") == "callbacks.Checkpoints"


def test_present_paths_of_nested_options():
    # `values` is an option's name, and a method of jsonargparse's Namespace.
    inner = Namespace(values=[{"class_path": "optim.registry.sgd"}], n=1)
    given = {"class_path": "optim.registry.sam", 0: Namespace(init_args=inner), "callbacks": "callbacks.Checkpoints"}
    use_present_paths(given)
    assert given["class_path"] == "steepest.optim.registry.sam"
    assert inner.n == 1
    assert inner["values"] == [{"class_path": "steepest.optim.registry.sgd"}]
    assert given["callbacks"] == "callbacks.Checkpoints"
    use_present_paths(None)


def test_the_message_names_what_was_looked_into(steepest, tmp_path, monkeypatch, elsewhere):
    monkeypatch.setattr(sys, "path", elsewhere)
    (tmp_path / "datamodules.py").write_text("class Mine: pass\n")
    outcome = steepest("fit", "--config", "digits_mlp", "--data", "datamodules.Digits")
    check(outcome, BAD_INPUT, [str(tmp_path / "datamodules.py"), "Steepest's own is steepest.datamodules.Digits"])


@pytest.mark.parametrize("path", ["no_such_package.Class", "Class"])
def test_nothing_is_said_of_a_package_that_is_not_there(path):
    assert looked_into(path) == ""
