import math
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from matplotlib.figure import Figure
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from steepest.callbacks.base import Diagnostic
from steepest.callbacks.probe import MeasurementUnavailableError, probe
from tests.callbacks.runs import Classifier, events, fit, warnings_of


class Counting(Diagnostic):
    """Measures the loss on the batch and draws random numbers of its own."""

    name = "counting"

    def __init__(self, seconds: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.steps: list[int] = []
        self.due: list[int] = []
        self.seconds = seconds

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if self.due_after_step(trainer):
            self.due.append(trainer.global_step + 1)

    def measure(self, trainer, pl_module, batch) -> dict[str, float]:
        self.steps.append(trainer.global_step)
        time.sleep(self.seconds)
        with probe(trainer, pl_module, batch, samples=4) as loss:
            value = loss()
            gradients = torch.autograd.grad(value, list(pl_module.parameters()))
            torch.manual_seed(0)
        return {"counting/loss": value.item(), "counting/gradients": float(len(gradients)), "counting/gap": math.nan}


class Failing(Diagnostic):
    name = "failing"

    def measure(self, trainer, pl_module, batch) -> dict[str, float]:
        raise ArithmeticError(f"step {trainer.global_step}\nsecond line")


class Metered(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(3)
        self.seen: list[int] = []

    def training_step(self, batch, batch_idx):
        self.accuracy(self.net(batch[0]), batch[1])
        self.seen.append(self.accuracy._update_count)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("cadence", "trainer_options", "expected"),
    [
        ({"every_n_steps": 2}, {"max_epochs": 2}, [2, 4, 6, 8, 10, 12]),
        ({"every_n_steps": 4, "first": True}, {"max_epochs": 2}, [1, 4, 8, 12]),
        ({"at_steps": [5, 1, 40]}, {}, [1, 5]),
        ({"every_n_epochs": 2}, {"max_epochs": 4}, [12, 24]),
        ({"every_n_steps": 1}, {"accumulate_grad_batches": 3, "max_epochs": 2}, [1, 2, 3, 4]),
        ({"every_n_epochs": 1}, {"accumulate_grad_batches": 4, "max_epochs": 2}, [2, 4]),
    ],
)
def test_due_steps_are_optimizer_steps_and_known_before(tmp_path, cadence, trainer_options, expected) -> None:
    diagnostic = Counting(**cadence)
    trainer = fit(tmp_path, Classifier(), diagnostic, **trainer_options)
    assert diagnostic.steps == diagnostic.due == expected
    written = events(trainer)
    assert [step for step, _ in written["counting/loss"]] == expected
    assert [step for step, _ in written["diagnostics/counting_seconds"]] == expected
    assert "counting/gap" not in written
    assert diagnostic.total_seconds >= sum(value for _, value in written["diagnostics/counting_seconds"]) * 0.99


def test_a_probe_leaves_training_bit_for_bit_alone(tmp_path) -> None:
    plain, watched = Classifier(), Classifier()
    fit(tmp_path, plain, max_epochs=2)
    trainer = fit(tmp_path, watched, Counting(every_n_steps=1), max_epochs=2)
    for expected, found in zip(plain.weights, watched.weights, strict=True):
        assert torch.equal(expected, found)
    for expected, found in zip(plain.buffers(), watched.buffers(), strict=True):
        assert torch.equal(expected, found)
    assert plain.draws == watched.draws
    assert len(events(trainer)["counting/loss"]) == 12


def test_metrics_and_logging_are_untouched_by_a_probe(tmp_path) -> None:
    module = Metered()
    fit(tmp_path, module, Counting(every_n_steps=1))
    # Twelve forward passes, of which the six of the probe are forgotten.
    assert module.seen == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]
    assert module.accuracy._update_count == 6
    assert "log" not in module.__dict__


def test_failures_warn_once_and_leave_a_gap(tmp_path) -> None:
    with warnings_of("Failing") as messages:
        trainer = fit(tmp_path, Classifier(), Failing(every_n_steps=1))
    assert messages == [
        "Failing: a measurement at step 1 failed and is left out, training continues (ArithmeticError: step 1)"
    ]
    assert trainer.global_step == 6
    assert "diagnostics/failing_seconds" not in events(trainer)


def test_strict_raises(tmp_path) -> None:
    with pytest.raises(ArithmeticError, match="step 2"):
        fit(tmp_path, Classifier(), Failing(every_n_steps=2, strict=True))


def test_manual_optimization_without_a_diagnostic_loss_is_explained(tmp_path) -> None:
    class Manual(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()

    with warnings_of("Counting") as messages:
        fit(tmp_path, Manual(), Counting(every_n_steps=1))
    assert messages == [
        "Counting: Manual optimizes manually, so its training_step would train: give it a method diagnostic_loss(batch)"
    ]
    Manual.diagnostic_loss = lambda self, batch: self.net(batch[0]).square().mean()  # type: ignore[attr-defined]
    trainer = fit(tmp_path, Manual(), Counting(every_n_steps=3))
    assert [step for step, _ in events(trainer)["counting/loss"]] == [3, 6]


def test_a_training_step_without_loss_is_explained(tmp_path) -> None:
    class Skipping(Classifier):
        def training_step(self, batch, batch_idx):
            return None if len(batch[0]) == 4 else super().training_step(batch, batch_idx)

    trainer = fit(tmp_path, Classifier(), max_epochs=0)
    batch = torch.randn(8, 6), torch.zeros(8, dtype=torch.long)
    with (
        pytest.raises(MeasurementUnavailableError, match=r"Skipping\.training_step returned no loss"),
        probe(trainer, Skipping(), batch, samples=4) as loss,
    ):
        loss()


def test_max_overhead_stretches_the_interval(tmp_path) -> None:
    diagnostic = Counting(every_n_steps=2, seconds=0.1, max_overhead=0.05)
    fit(tmp_path, Classifier(), diagnostic, max_epochs=4)
    # Two seconds of training pay for one measurement, and the 24 steps take far less.
    assert diagnostic.steps[0] == 2
    assert len(diagnostic.steps) < 6
    assert all(step % 2 == 0 for step in diagnostic.steps)


class Drawing(Diagnostic):
    name, group = "drawing", "lines"

    def measure(self, trainer, pl_module, batch) -> dict[str, float]:
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([1, 2])
        self.write_figure(trainer, "line", figure, trainer.global_step)
        self.write_json(trainer, "drawing", {"step": trainer.global_step})
        return {}


def test_figures_go_to_the_run_folder_and_tensorboard(tmp_path) -> None:
    trainer = fit(tmp_path, Classifier(), Drawing(at_steps=[3]))
    folder = tmp_path / "run" / "version_0"
    assert {path.name for path in (folder / "figures").iterdir()} == {"line.png", "line.svg"}
    assert (folder / "drawing.json").read_text() == '{\n "step": 3\n}\n'
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(trainer.log_dir), {"images": 0})
    accumulator.Reload()
    (image,) = accumulator.Images("lines/line")
    assert (image.step, image.width, image.height) == (3, 300, 150)


@pytest.mark.parametrize("options", [{"logger": False}, {"fast_dev_run": True}])
def test_a_figure_that_nobody_would_see_is_not_rendered(tmp_path, monkeypatch, options) -> None:
    monkeypatch.chdir(tmp_path)
    rendered = []
    monkeypatch.setattr(Figure, "draw", lambda *_: rendered.append(1))
    fit(tmp_path, Classifier(), Drawing(at_steps=[1]), **options)
    assert not rendered
    assert list(tmp_path.iterdir()) == []


def test_without_a_logger_no_file_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    diagnostic = Counting(every_n_steps=1)
    fit(None, Classifier(), diagnostic)
    assert diagnostic.run_folder is None
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_keeps_cadence_and_seconds(tmp_path) -> None:
    first = Counting(every_n_steps=4)
    trainer = fit(tmp_path, Classifier(), first, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = Counting(every_n_steps=4)
    torch.manual_seed(2)
    resumed = fit(tmp_path, Classifier(), second, max_epochs=2, resume=tmp_path / "half.ckpt")
    assert second.steps == [8, 12]
    assert second.total_seconds > first.total_seconds
    assert resumed.global_step == 12


def test_sharded_strategies_are_refused() -> None:
    class Sharded:
        strategy = FSDPStrategy()

    with pytest.raises(ValueError, match=r"Counting needs whole parameters .* FSDPStrategy splits"):
        Counting(every_n_steps=1).setup(Sharded(), Classifier(), "fit")  # type: ignore[arg-type]


def test_max_overhead_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\), got 2"):
        Counting(every_n_steps=1, max_overhead=2.0)


def test_an_epochs_end_is_left_out_where_time_is_short(tmp_path) -> None:
    diagnostic = Counting(every_n_epochs=1, seconds=0.1, max_overhead=0.001)  # pays for one in a hundred seconds
    fit(tmp_path, Classifier(), diagnostic, max_epochs=3)
    assert diagnostic.steps == diagnostic.due == [6]


def test_rank_zeros_clock_decides_when_all_ranks_measure_next() -> None:
    told = []
    strategy = SimpleNamespace(broadcast=lambda step: told.append(step) or 77)
    diagnostic = Counting(every_n_steps=2, max_overhead=0.1)
    diagnostic.total_seconds, diagnostic._clock = 1.0, (time.perf_counter() - 3.0, 0.0, 0)
    found = diagnostic._earliest_next_step(SimpleNamespace(strategy=strategy), 10, 1.0)  # type: ignore[arg-type]
    # Ten steps took two seconds; two measurements of one second cost a tenth of twenty: 18 seconds, 90 steps, more.
    assert (found, told) == (77, [pytest.approx(100, abs=2)])
