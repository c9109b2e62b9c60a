"""The clock counts training steps and nothing else: on a clock that only the parts of the run move."""

import time
from typing import Any

import pytest
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader, Dataset

from steepest.callbacks import TrainingClock
from steepest.callbacks.base import Diagnostic
from steepest.callbacks.checkpoints import read_checkpoint
from tests.callbacks.runs import Classifier, events, fit, loader

BATCHES, DATA, STEP, VALIDATION, DIAGNOSIS, CHECKPOINT = 6, 1, 100, 10**4, 10**6, 10**8


class Clock:
    now = 0.0

    def take(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


class Timed(Classifier):
    """Every step, validation and checkpoint takes its time."""

    def __init__(self, clock: Clock, warm_up: int = 0) -> None:
        super().__init__()
        self.clock, self.warm_up, self.taken = clock, warm_up, 0

    def training_step(self, batch, batch_idx):
        self.taken += 1
        self.clock.take(STEP if self.taken > self.warm_up else 10**12)  # as a compiling step would
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx) -> None:
        self.clock.take(VALIDATION)

    def val_dataloader(self) -> DataLoader:
        return loader(1)

    def on_save_checkpoint(self, checkpoint) -> None:
        self.clock.take(CHECKPOINT)


class Fetched(Dataset):
    def __init__(self, clock: Clock) -> None:
        self.clock, self.samples = clock, loader(BATCHES, 8).dataset

    def __getitem__(self, index: int) -> Any:
        if index % 8 == 0:
            self.clock.take(DATA)
        return self.samples[index]

    def __len__(self) -> int:
        return BATCHES * 8


class Slow(Diagnostic):
    name = "slow"

    def __init__(self, clock: Clock) -> None:
        super().__init__(every_n_steps=2)
        self.clock = clock

    def measure(self, trainer, pl_module, batch) -> dict[str, float]:
        self.clock.take(DIAGNOSIS)
        return {}


class Saving(Checkpoint):
    """Writes one inside each epoch and one at its end."""

    def __init__(self, folder: Any, batch: int | None = 3) -> None:
        self.folder, self.batch = folder, batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx == self.batch:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        trainer.save_checkpoint(self.folder / "epoch.ckpt")


def train(folder, clock: Clock, warm_up: int = 0, **options: Any):
    data = DataLoader(Fetched(clock), batch_size=8)
    callbacks = [Slow(clock), TrainingClock(warm_up), Saving(folder)]
    options = {
        "max_epochs": 2,
        "val_check_interval": 3,
        "limit_val_batches": 1,
        "enable_checkpointing": True,
        **options,
    }
    module = Timed(clock, warm_up)
    trainer = fit(folder, module, *callbacks, data=data, **options)
    return trainer


@pytest.mark.parametrize("warm_up", [0, 4, 100])
def test_only_training_steps_count(tmp_path, clock, warm_up) -> None:
    seconds = events(train(tmp_path, clock, warm_up))["time/train_seconds"]
    assert [step for step, _ in seconds] == [3, 6, 9, 12]
    for step, value in seconds:
        counted = max(step - warm_up, 0)
        assert value // STEP == counted
        # A fetch may lie before the clock's start, after its stop (Lightning is one batch ahead) or at a checkpoint.
        assert counted - 3 <= value % STEP <= counted


def test_a_resumed_run_counts_on(tmp_path, clock) -> None:
    train(tmp_path, clock, 2, max_epochs=1)
    saved = [entry for key, entry in read_checkpoint(tmp_path / "4.ckpt")["callbacks"].items() if "Clock" in key]
    assert saved[0]["seconds"] // STEP == 2  # up to the checkpoint, not up to the last validation
    trainer = train(tmp_path, clock, 2, resume=tmp_path / "epoch.ckpt")
    seconds = dict(events(trainer)["time/train_seconds"])
    assert sorted(seconds) == [9, 12]
    assert [seconds[step] // STEP for step in (9, 12)] == [4 + 1, 4 + 4]


def test_without_validation_the_end_is_logged(tmp_path, clock) -> None:
    seconds = events(train(tmp_path, clock, limit_val_batches=0))["time/train_seconds"]
    assert [step for step, _ in seconds] == [12]


def test_the_real_clock_runs(tmp_path) -> None:
    watch = TrainingClock(warm_up_steps=1)
    start = time.perf_counter()
    fit(tmp_path, Classifier(), watch)
    assert 0 < watch.seconds < time.perf_counter() - start
    watch.seconds, before = 0.0, time.perf_counter()
    trainer = fit(None, Classifier(), watch)
    counted = watch.seconds
    assert 0 < counted < time.perf_counter() - before
    trainer.validate(Timed(Clock()), verbose=False)  # another command counts nothing
    assert watch.seconds == counted


def test_training_is_left_alone(tmp_path) -> None:
    plain, watched = Classifier(), Classifier()
    fit(None, plain)
    fit(tmp_path, watched, TrainingClock())
    assert all(one.equal(other) for one, other in zip(plain.weights, watched.weights, strict=True))


def test_a_negative_warm_up_is_refused() -> None:
    with pytest.raises(ValueError, match="warm_up_steps of TrainingClock must be at least 0, got -1"):
        TrainingClock(-1)
