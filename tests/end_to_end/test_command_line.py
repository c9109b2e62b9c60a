"""Whole commands: what a run leaves behind, at which steps, and what its options do."""

import csv
import importlib.metadata
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from steepest.callbacks.checkpoints import read_checkpoint
from steepest.command_line.completion import DEFAULT_CALLBACKS


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Scalars of all event files of a run: tag, step, value."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("events.out.*")):
        accumulator = EventAccumulator(str(path), {"scalars": 0})
        accumulator.Reload()
        for tag in accumulator.Tags()["scalars"]:
            for event in accumulator.Scalars(tag):
                # A value is written once, not repeated in between.
                assert event.step not in found.setdefault(tag, {}), (tag, event.step)
                found[tag][event.step] = event.value
    return found


def hyperparameters(folder: Path) -> dict[str, object]:
    """What TensorBoard's HPARAMS page says about a run."""
    for path in folder.glob("events.out.*"):
        accumulator = EventAccumulator(str(path))
        accumulator.Reload()
        try:
            content = accumulator.PluginTagToContent("hparams")
        except KeyError:
            continue
        start = plugin_data_pb2.HParamsPluginData.FromString(content["_hparams_/session_start_info"])
        return {
            name: getattr(value, value.WhichOneof("kind")) for name, value in start.session_start_info.hparams.items()
        }
    return {}


def run_record(folder: Path) -> dict[str, object]:
    return json.loads((folder / "run.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]


def identical(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs/tiny"


def test_what_a_run_leaves_behind(steepest, tiny, runs):
    words = ["fit", "--config", tiny, "--test_after_fit", "true", "--trainer.log_every_n_steps", "1"]
    outcome = steepest(
        *words,
        "--schedule",
        "linear",
        "--trainer.callbacks+=GradientFlowMonitor",
        "--trainer.callbacks.every_n_steps=2",
    )
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    folder = runs / "version_0"

    found = scalars(folder)
    expected = {
        *(f"train/{name}" for name in ("loss", "accuracy", "epoch_loss", "epoch_accuracy")),
        *(f"{stage}/{name}" for stage in ("val", "test", "final/val", "final/test") for name in ("loss", "accuracy")),
        *("final/train/epoch_loss", "final/train/epoch_accuracy", "lr/decay", "lr/no_decay"),
        *(f"grad/{name}" for name in ("total_norm", "max_min_ratio", "zero_fraction", "dead_relu_fraction")),
        *("grad/nonfinite", "grad/weight_norm", "update/relative_size", "update/relative_size_max"),
        "diagnostics/gradient_flow_seconds",
    }
    assert expected <= set(found)
    assert not [tag for tag in found if "hp_metric" in tag]
    assert all(math.isfinite(value) for values in found.values() for value in values.values())

    chosen = hyperparameters(folder)
    assert chosen["optimizer"] == "adamw"
    assert chosen["optimizer/lr"] == 2e-3
    assert chosen["schedule"] == "linear"
    assert chosen["model/network"] == "SimpleMLP"
    assert chosen["data/batch_size"] == 64
    assert not [name for name in chosen if name.startswith("model/optimizer")]

    record = run_record(folder)
    assert record["status"] == "finished"
    assert record["command"].split()[:4] == ["steepest", *words[:3]]
    assert (record["global_step"], record["epochs"], record["seed"], record["parent"]) == (3, 1, 0, None)
    assert record["seconds"] > 0
    assert record["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert record["devices"]["accelerator"] == "cpu"
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    assert {"val/loss", "val/accuracy", "test/loss", "test/accuracy", "train/epoch_loss"} <= set(record["metrics"])
    assert record["metrics"]["test/accuracy"] == pytest.approx(found["final/test/accuracy"][3])
    assert "git_commit" in record
    assert "started" in record

    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = {int(row["step"]): float(row["train/loss"]) for row in rows if row["train/loss"]}
    assert losses == pytest.approx(found["train/loss"])
    assert [float(row["val/loss"]) for row in rows if row["val/loss"]] == pytest.approx(
        list(found["val/loss"].values())
    )

    for name in ("gradient_norm_by_layer", "gradient_flow_heat_map"):
        assert (folder / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"figures/{name}.svg").read_text()
    assert set(path.name for path in (folder / "checkpoints").iterdir()) == {"best.ckpt", "last.ckpt"}
    assert not [path for path in folder.rglob(".*") if path.is_file()]  # where files are written until they are whole
    assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["init_args"]["lr"] == 2e-3
    for words in (
        "test accuracy",
        "validation loss",
        "training loss",
        "AdamW",
        str(Path("runs/tiny/version_0")),
        "tensorboard --logdir runs",
    ):
        assert words in outcome.out


def test_scalars_stand_at_true_steps(steepest, tiny, runs):
    options = ["--trainer.limit_train_batches", "10", "--trainer.log_every_n_steps", "3", "--trainer.max_epochs", "2"]
    monitor = [*MONITOR, "--trainer.callbacks.every_n_steps=4"]
    rates = ["--trainer.callbacks+=LearningRateTracker", "--trainer.callbacks.every_n_steps=5"]
    assert steepest("fit", "--config", tiny, *options, *monitor, *rates).code == 0
    found = {tag: list(steps) for tag, steps in scalars(runs / "version_0").items()}
    # What is left of an epoch is written at its end.
    assert found["train/loss"] == [3, 6, 9, 10, 12, 15, 18, 20]
    assert found["train/epoch_loss"] == found["val/loss"] == [10, 20]
    assert found["grad/total_norm"] == [4, 8, 12, 16, 20]
    assert found["lr/decay"] == [1, 5, 10, 15, 20]
    assert found["final/val/loss"] == [20]


def test_the_schedule_moves_at_every_update(steepest, tiny, runs):
    options = ["--trainer.limit_train_batches", "8", "--trainer.accumulate_grad_batches", "2"]
    schedule = ["--schedule", "linear", "--schedule.warmup", "0", "--optimizer", "sgd", "--optimizer.lr", "0.3"]
    rates = ["--trainer.callbacks+=LearningRateTracker", "--trainer.callbacks.every_n_steps=1"]
    assert steepest("fit", "--config", tiny, *options, *schedule, *rates).code == 0
    used = scalars(runs / "version_0")["lr/all"]
    assert used == pytest.approx({1: 0.3, 2: 0.2, 3: 0.1, 4: 0.0}, abs=1e-6)


def test_config_of_a_run_repeats_it_bit_for_bit(steepest, tiny, runs):
    words = ["--model.network.dropout", "0.3", "--schedule", "warmup_cosine", "--data.random_crop", "1"]
    assert steepest("fit", "--config", tiny, *words, "--seed_everything", "5").code == 0
    assert steepest("fit", "--config", runs / "version_0/config.yaml").code == 0
    first, second = (runs / f"version_{number}" for number in (0, 1))
    assert identical(weights(first), weights(second))
    assert (first / "config.yaml").read_text() == (second / "config.yaml").read_text()
    assert steepest("fit", "--config", first / "config.yaml", "--seed_everything", "6").code == 0
    assert not identical(weights(first), weights(runs / "version_2"))


def test_every_command_takes_the_config_of_a_fit(steepest, tiny, runs):
    assert steepest("fit", "--config", tiny, "--schedule", "linear", "--test_after_fit", "true").code == 0
    config = runs / "version_0/config.yaml"
    for command in ("validate", "test", "predict"):
        outcome = steepest(command, "--config", config, "--ckpt_path", "last")
        assert (outcome.code, outcome.err) == (0, "")
    tested = run_record(runs / "version_2")
    assert tested["command"].startswith("steepest test")
    assert tested["parent"]["checkpoint"].endswith("version_0/checkpoints/last.ckpt")
    assert tested["metrics"] == {
        name: value for name, value in run_record(runs / "version_0")["metrics"].items() if name.startswith("test/")
    }
    predicted = torch.load(runs / "version_3/predictions.pt", weights_only=True)
    assert sum(len(batch["label"]) for batch in predicted) == 360
    assert all(0.1 <= float(batch["probability"].min()) for batch in predicted)


def test_evaluation_without_a_checkpoint_says_so(steepest, tiny, runs):
    with pytest.warns(UserWarning, match="no --ckpt_path: test uses the weights that the model is built with"):
        assert steepest("test", "--config", tiny).code == 0


def test_options_of_a_checkpoint_do_not_replace_those_given(steepest, tiny, runs):
    assert steepest("fit", "--config", tiny).code == 0
    assert steepest("test", "--config", tiny, "--data.batch_size", "32", "--ckpt_path", "last").code == 0
    used = yaml.safe_load((runs / "version_1/config.yaml").read_text())
    assert used["data"]["init_args"]["batch_size"] == 32


def test_last_is_the_newest_complete_checkpoint(steepest, tiny, runs):
    for _ in range(2):
        assert steepest("fit", "--config", tiny).code == 0
    newest = runs / "version_1/checkpoints/last.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert steepest("fit", "--config", tiny, "--trainer.max_epochs", "2", "--ckpt_path", "last").code == 0
    record = run_record(runs / "version_2")
    assert record["parent"] == {"checkpoint": "runs/tiny/version_0/checkpoints/last.ckpt", "global_step": 3}
    assert record["global_step"] == 6


def test_default_callbacks_stay_and_are_replaced_by_name(steepest, tiny, runs):
    words = ["--trainer.callbacks+=StepSeed", "--trainer.callbacks+=Checkpoints", "--trainer.callbacks.mode=max"]
    assert steepest("fit", "--config", tiny, *words).code == 0
    used = yaml.safe_load((runs / "version_0/config.yaml").read_text())["trainer"]["callbacks"]
    names = [callback["class_path"].rsplit(".", 1)[-1] for callback in used]
    # The config has replaced two of them, the command line a third.
    replaced = ["SpectralNormTracker", "UpdateDynamics", "StepSeed", "Checkpoints"]
    assert names == ["GradientFlowMonitor", "LearningRateTracker", *replaced]
    assert used[-1]["init_args"]["mode"] == "max"
    assert not (runs / "version_0/figures").exists()
    found = scalars(runs / "version_0")
    assert {"spectral/norm_max", "update/effective_lr", "update/cosine_to_gradient"} <= set(found)
    assert {path.name for path in (runs / "version_0").glob("*.json")} >= {"spectral_norm.json", "update_dynamics.json"}


def test_the_default_callbacks(steepest, tmp_path):
    (tmp_path / "plain.yaml").write_text("model: {class_path: ImageClassifier, init_args: {network: SimpleMLP}}\n")
    outcome = steepest("fit", "--config", "plain.yaml", "--data", "Digits", "--optimizer", "sgd", "--print_config")
    assert outcome.code == 0, outcome.err
    used = yaml.safe_load(outcome.out)["trainer"]["callbacks"]
    assert tuple(callback["class_path"].rsplit(".", 1)[-1] for callback in used) == DEFAULT_CALLBACKS
    assert DEFAULT_CALLBACKS[:3] == ("GradientFlowMonitor", "SpectralNormTracker", "UpdateDynamics")


# Figures take a second, and are looked at above.
MONITOR = ["--trainer.callbacks+=GradientFlowMonitor", "--trainer.callbacks.figures=false"]

FEATURES = {
    "bf16-mixed": "--trainer.precision bf16-mixed",
    "clipping by norm": "--trainer.gradient_clip_val 0.1",
    "clipping by value": "--trainer.gradient_clip_val 0.01 --trainer.gradient_clip_algorithm value",
    "accumulation": "--trainer.accumulate_grad_batches 2",
    "early stopping": "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/loss",
    "profiler": "--trainer.profiler simple",
    "deterministic": "--trainer.deterministic true",
    "overfitting": "--trainer.overfit_batches 2",
    "validation inside the epoch": "--trainer.limit_train_batches 4 --trainer.val_check_interval 0.5",
    "validation every second epoch": "--trainer.max_epochs 2 --trainer.check_val_every_n_epoch 2",
    "max_steps": "--trainer.max_epochs -1 --trainer.max_steps 5",
    "no validation": "--data.validation_size 0",
    "no logger": "--trainer.logger false",
    "no checkpoints": "--trainer.enable_checkpointing false",
    "progress bar": "--trainer.enable_progress_bar true",
    "model summary": "--trainer.enable_model_summary true",
    "compiled": "--model.compile eager --trainer.gradient_clip_val 0.1 --trainer.accumulate_grad_batches 2",
    "one trial step": "--trainer.fast_dev_run true",
    "anomaly detection": "--trainer.detect_anomaly true",
    "batch normalization": "--model.network.normalization batch --model.network.dropout 0.2",
}


@pytest.mark.parametrize("words", FEATURES.values(), ids=list(FEATURES))
def test_trainer_feature(steepest, tiny, runs, words):
    monitor = [*MONITOR, "--trainer.callbacks.every_n_steps=1"]
    outcome = steepest("fit", "--config", tiny, *monitor, *words.split())
    assert outcome.code == 0, outcome.err
    if "fast_dev_run" in words:
        assert not runs.exists()
        return
    folder = runs / "version_0"
    record = run_record(folder)
    assert record["status"] == "finished"
    assert math.isfinite(record["metrics"]["train/epoch_loss"])
    assert (folder / "checkpoints").exists() == ("enable_checkpointing" not in words)
    if "logger" in words:
        assert not list(folder.glob("events*"))
        return
    found = scalars(folder)
    steps = record["global_step"]
    assert len(found["grad/total_norm"]) == steps
    assert len(found["update/relative_size"]) == steps
    assert ("grad/total_norm_clipped" in found) == ("clip_val" in words)
    if "accumulate" in words:
        assert steps == 2  # of three batches, the last one alone
    if words == FEATURES["clipping by norm"]:
        assert max(found["grad/total_norm_clipped"].values()) <= 0.1 + 1e-6
        assert max(found["grad/total_norm"].values()) > 0.1
    if "val_check_interval" in words:
        assert list(found["val/loss"]) == [2, 4]
    if "every_n_epoch" in words:
        assert list(found["val/loss"]) == [6]
    if "max_steps" in words:
        assert steps == 5
    if "validation_size" in words:
        assert "val/loss" not in found
    if "progress_bar" in words:
        assert "epoch 1: train/epoch_loss" in outcome.out


def test_a_line_of_an_epoch_that_was_not_validated_repeats_no_validation(steepest, tiny):
    words = ["--trainer.max_epochs", -1, "--trainer.max_steps", 5, "--trainer.enable_progress_bar", "true"]
    outcome = steepest("fit", "--config", tiny, *words)
    first, second = (line for line in outcome.out.splitlines() if line.startswith("epoch "))
    assert "val/loss" in first
    assert second.startswith("epoch 2: train/epoch_loss")
    assert "val/" not in second


def test_table_without_a_folder_of_loggers(steepest, tiny, runs):
    outcome = steepest("fit", "--config", tiny, "--trainer.logger", "false", "--name", "quiet")
    assert "runs/quiet/version_0" in outcome.out
    assert "tensorboard" not in outcome.out
