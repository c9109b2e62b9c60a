"""Every field of run.json against what it should say."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import jsonargparse
import lightning
import numpy
import pytest
import torch
import torchmetrics
import torchvision
from lightning.pytorch.accelerators import CPUAccelerator
from torch import nn

import steepest
from steepest.run import record as run_record
from steepest.run.record import RunRecord, git_commit


def trainer_of(folder: Any, **changes: Any) -> Any:
    """As much of a Trainer as the record reads."""
    return SimpleNamespace(
        **{
            "log_dir": str(folder),
            "accelerator": CPUAccelerator(),
            "strategy": SimpleNamespace(root_device=torch.device("cpu")),
            "world_size": 3,
            "precision": "bf16-mixed",
            "global_step": 0,
            "current_epoch": 0,
            "callback_metrics": {},
            "sanity_checking": False,
            "loggers": [],
            **changes,
        }
    )


def record_of(**options: Any) -> RunRecord:
    return RunRecord(None, None, **options)


@pytest.fixture
def commit(tmp_path, monkeypatch) -> str:
    """The commit of a repository in the working folder, as git wrote it."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", "-b", "main"], check=True)
    subprocess.run(["git", *who, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    return (folder / ".git/refs/heads/main").read_text().strip()


def test_every_field(tmp_path, monkeypatch, commit) -> None:
    now = [100.0]
    monkeypatch.setattr(run_record.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    parent = {"checkpoint": "runs/a/version_0/checkpoints/last.ckpt", "step": 5}
    record = record_of(words=["fit", "--name", "two words"], parent=parent)
    trainer = trainer_of(tmp_path, global_step=0)
    model: Any = nn.Linear(3, 2)
    now[0] = 102.5
    record.save_config(trainer, model, "fit")
    first = json.loads((tmp_path / "run.json").read_text())
    assert datetime.now(UTC) - datetime.fromisoformat(first.pop("started")) < timedelta(minutes=2)
    assert first == {
        "command": "steepest fit --name 'two words'",
        "status": "running",
        "seconds": 2.5,
        "seed": 17,
        "parent": parent,
        "devices": {
            "accelerator": "cpu",
            "names": [platform.processor() or platform.machine()],
            "world_size": 3,
            "precision": "bf16-mixed",
        },
        "parameters": 8,
        "git_commit": commit,
        "versions": {
            "steepest": steepest.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__.partition("+")[0],
            "torchvision": torchvision.__version__.partition("+")[0],
            "lightning": lightning.__version__,
            "torchmetrics": torchmetrics.__version__,
            "jsonargparse": jsonargparse.__version__,
            "numpy": numpy.__version__,
        },
        "metrics": {},
        "global_step": 0,
        "epochs": 0,
    }

    trainer.callback_metrics = {"val/loss": torch.tensor(0.5), "train/loss": torch.tensor(0.25)}
    record.on_validation_end(trainer, model)
    trainer.callback_metrics = {"val/loss": torch.tensor(0.125)}
    trainer.global_step, trainer.current_epoch, now[0] = 40, 2, 161.2344
    record.on_train_end(trainer, model)
    record.finish(trainer, "failed", "it broke")
    last = json.loads((tmp_path / "run.json").read_text())
    changed = {name: value for name, value in last.items() if name not in first or first[name] != value}
    del changed["started"]
    assert changed == {
        "status": "failed",
        "error": "it broke",
        "seconds": 61.234,
        "metrics": {"val/loss": 0.125, "train/loss": 0.25},
        "global_step": 40,
        "epochs": 2,
    }


def test_a_sanity_check_is_no_result(tmp_path) -> None:
    record, trainer = record_of(), trainer_of(tmp_path)
    record.save_config(trainer, nn.Linear(1, 1), "fit")  # type: ignore[arg-type]
    trainer.callback_metrics, trainer.sanity_checking = {"val/loss": torch.tensor(0.5)}, True
    record.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert record.record["metrics"] == {}
    trainer.sanity_checking = False
    record.on_test_end(trainer, None)  # type: ignore[arg-type]
    assert (record.record["metrics"], record.started) == ({"val/loss": 0.5}, True)


def test_seed_and_parent_may_be_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.chdir(tmp_path)
    record = record_of()
    record.save_config(trainer_of(tmp_path), nn.Linear(1, 1), "fit")  # type: ignore[arg-type]
    assert (record.record["seed"], record.record["parent"], record.record["command"]) == (None, None, "steepest fit")


def test_no_commit_outside_a_repository(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert git_commit() is None
    monkeypatch.setenv("PATH", "")  # nor without git
    assert git_commit() is None


def test_what_is_not_started_leaves_nothing(tmp_path) -> None:
    record_of().finish(trainer_of(tmp_path), "failed")
    assert not (tmp_path / "run.json").exists()


def test_the_record_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    record, trainer = record_of(), trainer_of(tmp_path)
    record.save_config(trainer, nn.Linear(1, 1), "fit")  # type: ignore[arg-type]
    before = (tmp_path / "run.json").read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        record.finish(trainer, "finished")
    assert (tmp_path / "run.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "run" in path.name] == ["run.json"]


def test_a_checkpoint_says_what_was_chosen(tmp_path) -> None:
    checkpoint: dict[str, Any] = {}
    record_of(chosen={"optimizer": {"lr": 0.1}}).on_save_checkpoint(trainer_of(tmp_path), None, checkpoint)  # type: ignore[arg-type]
    assert checkpoint == {"steepest": {"chosen": {"optimizer": {"lr": 0.1}}, "config": str(tmp_path / "config.yaml")}}
