"""A language model that was killed and resumed ends, bit for bit, where the uninterrupted run ends."""

from pathlib import Path
from typing import Any

import pytest
import torch

from steepest.callbacks import StepSeed
from steepest.datamodules import TextFile
from steepest.lightning_modules import LanguageModel
from steepest.lightning_modules.networks import GPT2
from steepest.optim.schedules import warmup_cosine
from steepest.optim.spectral.budget import muon_adamw
from tests.end_to_end.test_resume import BATCHES, Kill, differences, scalars, train

BLOCK, BATCH = 16, 4
# As many tokens as give BATCHES batches of training windows.
TEXT = "".join(
    chr(97 + (7 * place * place + place // 5) % 23) for place in range((BATCHES * BATCH + 1) * BLOCK + 5 + 100)
)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def run(folder: Path, file: Path, *callbacks: Any, **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    network = GPT2(len(set(TEXT)), BLOCK, layers=1, heads=2, width=16, dropout=0.2)
    model = LanguageModel(network, sample_length=5, optimizer=muon_adamw, schedule=warmup_cosine)
    data = TextFile(file, block_size=BLOCK, batch_size=BATCH, validation_size=100)
    return train(folder, model, data, *callbacks, **{"log_every_n_steps": 2, **options})


def logged(*folders: Path) -> dict[tuple[str, int], set[float]]:
    return {key: values for key, values in scalars(*folders).items() if key[0] != "train/tokens_per_second"}


@pytest.mark.parametrize(
    ("kill", "step", "options"),
    [
        (14, 14, {"checkpoint_every": 1, "val_check_interval": 5, "check_val_every_n_epoch": None}),
        (18, 18, {}),
        (5, 4, {"checkpoint_every": 2, "max_steps": 23, "max_epochs": -1}),
    ],
)
def test_killed_and_resumed_is_uninterrupted(tmp_path, file, kill, step, options):
    whole, killed, resumed = (tmp_path / f"version_{number}" for number in range(3))
    expected = run(whole, file, **options)
    assert run(killed, file, Kill(kill), **options) == {}
    checkpoint = killed / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == step
    found = run(resumed, file, resume=checkpoint, **options)
    assert differences(expected, found) == []
    assert logged(killed, resumed) == logged(whole)


def test_the_seed_of_the_run_orders_the_windows(tmp_path, file, monkeypatch):
    runs = []
    for number, seed in enumerate((1, 1, 2)):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        # The same randomness inside the steps: the order alone differs.
        runs.append(run(tmp_path / f"version_{number}", file, StepSeed(seed=3), max_epochs=1)["state_dict"])
    assert differences(runs[0], runs[1]) == []
    assert differences(runs[0], runs[2]) != []
