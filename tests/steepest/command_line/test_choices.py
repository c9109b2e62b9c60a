"""Choosing another class takes that class's own defaults, wherever the choice stands."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from steepest.optim import OPTIMIZERS

TINY_OPTIMIZER = "{class_path: adamw, init_args: {lr: 2.0e-3, weight_decay: 0.3, betas: [0.8, 0.9]}}"


@pytest.fixture
def choose(steepest, tiny, tmp_path):
    """Run one step with further words and return the options of the run, as its config says."""
    (tmp_path / "chosen.yaml").write_text(f"optimizer: {TINY_OPTIMIZER}\n")

    def run(*words: str) -> dict[str, Any]:
        options = ["--config", tiny, "--config", "chosen.yaml", "--trainer.limit_train_batches", "1"]
        outcome = steepest("fit", *options, "--trainer.logger", "false", *words)
        assert outcome.code == 0, outcome.err
        newest = max(Path("runs/tiny").iterdir())
        return yaml.safe_load((newest / "config.yaml").read_text())

    return run


def defaults(optimizer: str) -> dict[str, Any]:
    found = {name: parameter.default for name, parameter in OPTIMIZERS.options(optimizer).items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}  # as in YAML


def test_command_line_over_default(steepest, tmp_path):
    words = ["--model", "ImageClassifier", "--model.network", "SimpleMLP", "--data", "Digits", "--optimizer", "sgd"]
    assert steepest("fit", *words, "--trainer.max_steps", "1", "--trainer.logger", "false").code == 0
    config = yaml.safe_load((tmp_path / "runs/ImageClassifier/version_0/config.yaml").read_text())
    assert config["optimizer"]["class_path"].endswith("sgd")
    assert config["optimizer"]["init_args"] == defaults("sgd")


@pytest.mark.parametrize("form", ["--optimizer=sgd", "--optimizer.class_path=sgd"])
def test_command_line_over_yaml(choose, form):
    assert choose(form)["optimizer"]["init_args"] == defaults("sgd")


def test_command_line_over_yaml_with_options(choose):
    used = choose("--optimizer", "momentum", "--optimizer.weight_decay", "0.2")["optimizer"]["init_args"]
    assert used == {**defaults("momentum"), "weight_decay": 0.2}


@pytest.mark.parametrize("text", ["sgd", "{class_path: sgd}"])
def test_yaml_over_yaml(choose, tmp_path, text):
    (tmp_path / "other.yaml").write_text(f"optimizer: {text}\n")
    assert choose("--config", "other.yaml")["optimizer"]["init_args"] == defaults("sgd")


def test_yaml_over_yaml_with_options(choose, tmp_path):
    (tmp_path / "other.yaml").write_text("optimizer: {class_path: sgd, init_args: {weight_decay: 0.2}}\n")
    used = choose("--config", "other.yaml")["optimizer"]["init_args"]
    assert used == {**defaults("sgd"), "weight_decay": 0.2}


def test_an_option_alone_keeps_the_rest(choose):
    used = choose("--optimizer.lr", "0.5")["optimizer"]
    assert used["class_path"].endswith("adamw")
    expected = {**defaults("adamw"), "lr": 0.5, "weight_decay": 0.3, "betas": [0.8, 0.9]}
    assert used["init_args"] == expected


def test_the_same_name_again_keeps_the_rest(choose):
    used = choose("--optimizer", "adamw", "--optimizer.lr", "0.5")["optimizer"]["init_args"]
    assert (used["lr"], used["weight_decay"]) == (0.5, 0.3)


def test_schedule_over_schedule(choose):
    used = choose("--schedule", "linear", "--schedule.warmup=0", "--schedule", "constant")["schedule"]
    assert used["init_args"] == {"warmup": 0.0}
    assert choose("--schedule", "linear", "--schedule", "null")["schedule"] is None


def test_network_over_network(choose):
    words = ["--model.network.dropout", "0.5", "--model.network", "DeepMLP"]
    used = choose(*words)["model"]["init_args"]["network"]["init_args"]
    assert used["hidden"] == [256, 128, 64, 32]
    assert used["dropout"] == 0.0
    assert (used["input_shape"], used["num_classes"]) == ([1, 8, 8], 10)


def test_data_over_data(choose, tmp_path):
    (tmp_path / "other_digits.py").write_text(
        "from steepest.datamodules import Digits\n\nclass OtherDigits(Digits):\n"
        "    def __init__(self, batch_size: int = 16, random_crop: int = 0) -> None:\n"
        "        super().__init__(batch_size=batch_size, random_crop=random_crop)\n"
    )
    used = choose("--data.random_crop", "2", "--data", "other_digits.OtherDigits")["data"]["init_args"]
    assert used == {"batch_size": 16, "random_crop": 0}


def test_model_over_model(choose, tmp_path):
    (tmp_path / "other_model.py").write_text(
        "from steepest.lightning_modules import ImageClassifier\nfrom torch import nn\n\n"
        "class Other(ImageClassifier):\n"
        "    def __init__(self, network: nn.Module, label_smoothing: float = 0.05) -> None:\n"
        "        super().__init__(network, label_smoothing)\n"
    )
    words = ["--model.label_smoothing", "0.3", "--model", "other_model.Other", "--model.network", "SimpleMLP"]
    used = choose(*words)["model"]["init_args"]
    assert used["label_smoothing"] == 0.05
    assert used["network"]["init_args"]["hidden"] == 128
