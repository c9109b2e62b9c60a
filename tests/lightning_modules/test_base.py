import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from steepest.lightning_modules import BaseModule
from steepest.lightning_modules.optimization import build_optimizer
from steepest.lightning_modules.scalars import ScalarBuffer
from steepest.optim import OPTIMIZERS, SCHEDULES
from steepest.optim.classical.torch_optimizers import adamw, sgd

VALUES = torch.arange(1.0, 8.0)  # one batch each


class Recorder(BaseModule):
    """Records what its data says; the weight does not matter."""

    def __init__(self, **options):
        super().__init__(**options)
        self.weight = nn.Parameter(torch.ones(2, 2))

    def training_step(self, batch, batch_idx):
        value = batch[0].mean()
        self.record(value=value, square=value**2)
        if batch_idx % 2 == 0:
            self.record(even=value)
        return (self.weight * value).sum()


class Memory(CSVLogger):
    """A real logger that also keeps what it was given."""

    def __init__(self, folder):
        super().__init__(folder)
        self.seen = []

    def log_metrics(self, metrics, step=None):
        self.seen.append((step, dict(metrics)))
        super().log_metrics(metrics, step)


def fit(module, tmp_path, data=None, **options):
    logger = Memory(tmp_path)
    trainer = Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": logger,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            **options,
        }
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*logging interval.*")
        trainer.fit(module, DataLoader(TensorDataset(VALUES), batch_size=1) if data is None else data)
    return trainer, logger.seen


def recorded(seen, name):
    return {step: metrics[name] for step, metrics in seen if name in metrics}


@pytest.mark.parametrize(("every", "windows"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (50, [7])])
def test_scalars_are_means_since_the_last_record(tmp_path, every, windows):
    _, seen = fit(Recorder(optimizer=sgd), tmp_path, log_every_n_steps=every)
    means = {
        end: sum(range(start + 1, end + 1)) / (end - start) for start, end in zip([0, *windows], windows, strict=False)
    }
    assert recorded(seen, "train/value") == pytest.approx(means)
    squares = {
        end: sum(i * i for i in range(start + 1, end + 1)) / (end - start)
        for start, end in zip([0, *windows], windows, strict=False)
    }
    assert recorded(seen, "train/square") == pytest.approx(squares)


def test_epoch_means_are_over_all_batches(tmp_path):
    trainer, seen = fit(Recorder(optimizer=sgd), tmp_path, log_every_n_steps=3, max_epochs=2)
    assert recorded(seen, "train/epoch_value") == pytest.approx({7: 4.0, 14: 4.0})
    assert recorded(seen, "train/epoch_square") == pytest.approx({7: 20.0, 14: 20.0})
    # A scalar that only some steps record is averaged over those.
    assert recorded(seen, "train/epoch_even") == pytest.approx({7: 4.0, 14: 4.0})
    assert float(trainer.callback_metrics["train/epoch_value"]) == 4.0


def test_accumulated_batches_count_each(tmp_path):
    _, seen = fit(Recorder(optimizer=sgd), tmp_path, log_every_n_steps=2, accumulate_grad_batches=2)
    # Seven batches make four updates, of 2, 2, 2 and 1 batches; records after the second and the fourth.
    assert recorded(seen, "train/value") == pytest.approx({2: 2.5, 4: 6.0})


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40), st.integers(1, 7), st.integers(0, 40))
def test_buffer_gives_the_true_means_also_through_a_checkpoint(values, every, saved_at):
    buffer = ScalarBuffer()
    for index, value in enumerate(values):
        if index == saved_at:
            state = buffer.state_dict()
            buffer = ScalarBuffer()
            buffer.load_state_dict(state)
        buffer.add("x", torch.tensor(value))
        if (index + 1) % every == 0:
            start = index + 1 - every
            assert buffer.flush()["x"] == pytest.approx(math.fsum(values[start : index + 1]) / every, abs=1e-9)
    buffer.flush()
    assert buffer.finish_epoch()["x"] == pytest.approx(math.fsum(values) / len(values), abs=1e-9)
    assert buffer.flush() == buffer.finish_epoch() == {}


def test_recording_keeps_no_graph():
    buffer = ScalarBuffer()
    buffer.add("loss", torch.ones((), requires_grad=True) * 2)
    assert not buffer.state_dict()["window"]["loss"].requires_grad


def test_optimizer_and_schedule_are_the_given_ones(tmp_path):
    def optimizer(module):
        return sgd(module, lr=0.5)

    def schedule(optimizer, total_steps):
        return SCHEDULES.create("linear", optimizer, total_steps, warmup=0)

    trainer, _ = fit(Recorder(optimizer=optimizer, schedule=schedule), tmp_path, accumulate_grad_batches=2)
    assert isinstance(trainer.optimizers[0], torch.optim.SGD)
    (config,) = trainer.lr_scheduler_configs
    assert (config.interval, config.frequency) == ("step", 1)
    assert config.scheduler.last_epoch == 4  # updates, not batches
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0)


def test_default_is_adamw(tmp_path):
    trainer, _ = fit(Recorder(), tmp_path)
    assert isinstance(trainer.optimizers[0], torch.optim.AdamW)
    assert trainer.lr_scheduler_configs == []


class Plain(LightningModule):
    """A module that knows nothing of ours."""

    def __init__(self, schedule=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.schedule = schedule

    def training_step(self, batch, batch_idx):
        return (self.weight * batch[0]).sum()

    def configure_optimizers(self):
        return build_optimizer(self, OPTIMIZERS["momentum"], self.schedule)


def test_build_optimizer_for_a_plain_module(tmp_path):
    trainer, _ = fit(Plain(SCHEDULES["warmup_cosine"]), tmp_path)
    assert trainer.optimizers[0].param_groups[0]["momentum"] == 0.9
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 7


def test_schedule_needs_the_length_of_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"--trainer.max_steps or --trainer.max_epochs"):
        fit(Plain(SCHEDULES["linear"]), tmp_path, max_epochs=-1, max_time={"seconds": 5})


class HalfPrecisionTrainer:
    """What `build_optimizer` asks a trainer on a GPU for; there is none where tests run."""

    gradient_clip_val = 1.0
    precision = "16-mixed"
    estimated_stepping_batches = 10


@pytest.mark.parametrize(
    ("clip", "precision", "fused"),
    [(1.0, "16-mixed", False), (None, "16-mixed", True), (1.0, "bf16-mixed", True), (1.0, "32-true", True)],
)
def test_no_fused_step_where_lightning_could_not_clip(clip, precision, fused):
    module = Plain()
    trainer = HalfPrecisionTrainer()
    trainer.gradient_clip_val, trainer.precision = clip, precision
    module._trainer = trainer
    (optimizer,), _ = build_optimizer(module, lambda module: adamw(module, fused=True), None)
    assert bool(getattr(optimizer, "_step_supports_amp_scaling", False)) == fused
    assert all(bool(group["fused"]) == fused for group in optimizer.param_groups)


def test_a_record_that_is_not_written_yet_travels_in_the_checkpoint(tmp_path):
    whole_path, part_path = tmp_path / "whole", tmp_path / "part"
    _, whole = fit(Recorder(optimizer=sgd), whole_path, log_every_n_steps=3, max_epochs=2)
    data = DataLoader(TensorDataset(VALUES), batch_size=1)
    trainer, first = fit(Recorder(optimizer=sgd), part_path, data, log_every_n_steps=3)
    trainer.save_checkpoint(part_path / "x.ckpt", weights_only=False)
    module = Recorder(optimizer=sgd)
    logger = Memory(part_path / "second")
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=3,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, data, ckpt_path=part_path / "x.ckpt", weights_only=False)
    assert first + logger.seen == whole


def test_a_step_that_was_recorded_before_the_checkpoint_is_not_recorded_again():
    # Saved between the micro-batches of step 4: step 3 was recorded when the first of them began.
    module, written = Recorder(), []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: written.append((step, metrics)))
    trainer = SimpleNamespace(global_step=3, log_every_n_steps=3, loggers=[logger], world_size=1, global_rank=0)
    module._trainer = trainer
    module.record(value=torch.tensor(1.0))
    module.on_train_batch_start(None, 3)
    module.record(value=torch.tensor(5.0))
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    resumed = Recorder()
    resumed._trainer = trainer
    resumed.on_load_checkpoint(checkpoint)
    resumed.on_train_batch_start(None, 4)
    resumed.record(value=torch.tensor(7.0))
    trainer.global_step = 6
    resumed.on_train_batch_start(None, 5)
    assert written == [(3, {"train/value": 1.0}), (6, {"train/value": 6.0})]


def test_ranks_reduce_the_same_name_at_the_same_place():
    sent = []
    for order in (("loss", "accuracy"), ("accuracy", "loss")):
        buffer = ScalarBuffer()
        for name in order:
            buffer.add(name, torch.tensor({"loss": 2.0, "accuracy": 0.5}[name]))
        assert buffer.flush(lambda means: sent.append(means.tolist()) or means) == {"loss": 2.0, "accuracy": 0.5}
    assert sent == [[0.5, 2.0], [0.5, 2.0]]
