"""Schedule-free optimizers in the Trainer: the average is what is evaluated and saved, and resuming is exact."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("schedulefree", reason="needs the extra: pip install 'steepest[schedule_free]'")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)["state_dict"]


def test_a_fit_switches_saves_the_average_and_resumes_to_the_bit(steepest, tiny, tmp_path) -> None:
    words = ["--config", tiny, "--optimizer", "schedule_free_adamw", "--optimizer.lr", "0.01"]
    whole = steepest("fit", *words, "--trainer.max_epochs", "4", "--name", "whole")
    assert whole.code == 0, whole.err
    assert steepest("fit", *words, "--trainer.max_epochs", "2", "--name", "part").code == 0
    resumed = steepest("fit", *words, "--trainer.max_epochs", "4", "--name", "part", "--ckpt_path", "last")
    assert resumed.code == 0, resumed.err
    first = weights(tmp_path / "runs/whole/version_0/checkpoints/last.ckpt")
    second = weights(tmp_path / "runs/part/version_1/checkpoints/last.ckpt")
    assert all(torch.equal(first[name], second[name]) for name in first)
    saved = torch.load(tmp_path / "runs/whole/version_0/checkpoints/last.ckpt", weights_only=False)
    assert all(group["train_mode"] is False for group in saved["optimizer_states"][0]["param_groups"])


def test_a_schedule_is_advised_against(steepest, tiny) -> None:
    words = ["--optimizer", "schedule_free_sgd", "--schedule", "linear", "--trainer.max_steps", "2"]
    with pytest.warns(UserWarning, match="a schedule-free optimizer needs no schedule: leave --schedule out"):
        assert steepest("fit", "--config", tiny, *words).code == 0
