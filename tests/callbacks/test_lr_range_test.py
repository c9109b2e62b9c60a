"""The range test inside real fits: what it finds, and that it leaves no trace."""

import csv
import json
import math
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from steepest.callbacks import GradientFlowMonitor, LRRangeTest, SharpnessProbe, StepSeed
from steepest.callbacks.checkpoints import Checkpoints
from steepest.diagnostics.common.guards import hooks_removed
from tests.callbacks.runs import Classifier, events, fit, loader


class Stateful(Classifier):
    """Keeps state in every way a module can; its losses are those of the fit, in order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("hidden", torch.zeros(1), persistent=False)
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.started = 0

    def on_train_start(self) -> None:
        self.started += 1

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        assert self.started == 1
        self.seen += 1  # type: ignore[operator]
        self.hidden += len(batch[0])  # type: ignore[operator]
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss


class Scheduled(Stateful):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = LambdaLR(optimizer, lambda step: 1.0 / (1.0 + step))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class WarmingUp(Stateful):
    """Sets the learning rate itself, in the hook around the step."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None) -> None:
        optimizer.param_groups[0]["lr"] = 1e-5
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)


class Manual(Stateful):
    """Two optimizers, stepped by hand; the second one every other batch."""

    def __init__(self, returns: bool = True) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.returns = returns

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        first, second = self.optimizers()  # type: ignore[misc]
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        if batch_idx % 2:
            for optimizer in (first, second):
                optimizer.step()
                optimizer.zero_grad()
        return {"loss": loss} if self.returns else None

    def configure_optimizers(self) -> Any:
        parameters = list(self.parameters())
        return [torch.optim.SGD(parameters[:2], lr=0.1, momentum=0.9), torch.optim.AdamW(parameters[2:], lr=0.01)]


def shuffled(generator: torch.Generator | None = None) -> DataLoader:
    dataset = loader().dataset
    if generator is None:
        return DataLoader(dataset, batch_size=8, shuffle=True)
    return DataLoader(dataset, batch_size=8, sampler=RandomSampler(dataset, generator=generator))  # type: ignore


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "adamw": (Stateful, {}),
    "momentum": (lambda: Stateful(optimizer=torch.optim.SGD, momentum=0.9), {}),
    "lbfgs": (lambda: Stateful(optimizer=torch.optim.LBFGS, max_iter=3), {}),
    "schedule": (Scheduled, {}),
    "warm-up of its own": (WarmingUp, {}),
    "manual": (Manual, {}),
    "accumulation": (Stateful, {"accumulate_grad_batches": 2}),
    "clipping": (Stateful, {"gradient_clip_val": 0.1}),
    "bf16": (Stateful, {"precision": "bf16-mixed"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["range", "envelope"])
def test_the_fit_is_the_same_to_the_bit(tmp_path, case, mode) -> None:
    make, options = CASES[case]
    test = LRRangeTest(mode=mode, steps=12, values=2 if mode == "envelope" else None, seeds=[0, 5], figures=False)
    watched, plain = make(), make()
    fit(tmp_path, watched, test, data=shuffled(), **options)
    fit(None, plain, data=shuffled(), **options)
    assert len(plain.losses) >= 6  # L-BFGS evaluates a batch several times
    assert watched.losses == plain.losses
    assert watched.rates == plain.rates
    assert watched.draws == plain.draws
    assert all(torch.equal(one, other) for one, other in zip(watched.weights, plain.weights, strict=True))
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, dict(watched.named_buffers())[name]), name
    assert len(test.curves) == (2 if mode == "range" else 0)
    assert len(test.trials) == (4 if mode == "envelope" else 0)
    assert all(math.isfinite(loss) for curve in test.curves for loss in curve.losses)


def test_state_is_the_same_right_after_the_test() -> None:
    """Also what a fit would not show: state of the optimizer, gradients, flags, the sampler's generator."""

    class Comparing(LRRangeTest):
        def run(self, trainer, pl_module):
            optimizer, schedule = trainer.optimizers[0], trainer.lr_scheduler_configs[0].scheduler

            def state() -> list[Any]:
                return [
                    [value.clone() for value in (*pl_module.parameters(), *pl_module.buffers())],
                    [own.grad for own in pl_module.parameters()],
                    [module.training for module in pl_module.modules()],
                    {key: dict(value) for key, value in optimizer.state.items()},
                    [dict(group) for group in optimizer.param_groups],
                    schedule.state_dict(),
                    [torch.get_rng_state(), generator.get_state()],
                    list(trainer.callbacks),
                    trainer.loggers,
                    trainer.global_step,
                ]

            before = state()
            rates = super().run(trainer, pl_module)
            assert str(before) == str(state())
            flat = zip(before[0], state()[0], strict=True)
            assert all(torch.equal(one, other) for one, other in flat)
            assert all(torch.equal(one, other) for one, other in zip(before[6], state()[6], strict=True))
            return rates

    generator = torch.Generator().manual_seed(4)
    test = Comparing(steps=15)
    fit(None, Scheduled(), test, data=shuffled(generator))
    assert len(test.curves[0].losses) >= 10


def test_the_steps_are_those_of_a_training_at_these_rates(tmp_path) -> None:
    """Every loss equals that of a plain loop that sets the learning rates itself."""

    class Forced(Stateful):
        def on_train_batch_start(self, batch, batch_idx) -> None:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = curve.learning_rates[batch_idx]

    def net() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    test = LRRangeTest(steps=24, factors=(1e-2, 1e2))
    fit(tmp_path, Stateful(net=net()), test, gradient_clip_val=0.5)
    curve = test.curves[0]
    plain = Forced(net=net())
    fit(None, plain, max_epochs=4, gradient_clip_val=0.5)
    steps = len(curve.losses)
    assert steps > 6  # more than an epoch
    assert curve.losses[:6] == plain.losses[:6]


def test_steps_that_the_loss_scaler_leaves_out_are_taken_again() -> None:
    """A scale that is far too large overflows at first; every learning rate gets a real step all the same."""

    def scaled() -> dict[str, Any]:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)
        return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}

    steps: list[float] = []

    class Noting(LRRangeTest):
        def run(self, trainer, pl_module):
            def note(optimizer, *arguments) -> None:
                steps.append(optimizer.param_groups[0]["lr"])

            with hooks_removed([trainer.optimizers[0].register_step_post_hook(note)]):
                return super().run(trainer, pl_module)

    test = Noting(steps=10, factors=(1e-2, 1.0))
    watched, plain = Stateful(), Stateful()
    fit(None, watched, test, max_epochs=2, **scaled())
    trainer = fit(None, plain, max_epochs=2, **scaled())
    assert steps == pytest.approx(test.curves[0].learning_rates)
    assert trainer.precision_plugin.scaler.get_scale() < 2.0**22  # type: ignore[attr-defined]
    assert watched.losses == plain.losses
    assert all(torch.equal(one, other) for one, other in zip(watched.weights, plain.weights, strict=True))


def test_the_loss_is_the_mean_over_micro_batches() -> None:
    torch.manual_seed(3)
    net = nn.Linear(6, 3)
    losses = torch.stack([nn.functional.cross_entropy(net(one), other).detach() for one, other in loader()])
    test = LRRangeTest(steps=4, factors=(1e-9, 2e-9))  # the weights stay where they are
    fit(None, Stateful(net=net, optimizer=torch.optim.SGD), test, accumulate_grad_batches=3)
    means = losses.reshape(2, 3).mean(1).tolist()
    assert test.curves[0].losses == pytest.approx(2 * means, rel=1e-5)  # two epochs


def test_manual_optimization_steps_when_the_module_does() -> None:
    test = LRRangeTest(steps=12)
    module = Manual()
    fit(None, module, test, max_epochs=1)
    assert test.curves[0].optimizer == "SGD, AdamW"
    assert len(test.curves[0].losses) >= 10


def test_manual_optimization_without_a_loss_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="Manual optimizes manually and its training_step returns no loss"):
        fit(None, Manual(returns=False), LRRangeTest())


def test_other_callbacks_do_not_notice(tmp_path) -> None:
    class Counting(Callback):
        def __init__(self) -> None:
            self.calls: list[str] = []

        def on_before_zero_grad(self, *arguments) -> None:
            self.calls.append("zero_grad")

        def on_before_optimizer_step(self, *arguments) -> None:
            self.calls.append("step")

        def on_train_batch_start(self, *arguments) -> None:
            self.calls.append("batch")

    counting, flow = Counting(), GradientFlowMonitor(every_n_steps=1, ratio_warning=1e9, figures=False)
    sharpness = SharpnessProbe(every_n_steps=3, figures=False)
    test = LRRangeTest(steps=12, figures=False)
    # Behind the others in the list, as `--trainer.callbacks+=LRRangeTest` puts it.
    trainer = fit(tmp_path, Stateful(), counting, flow, sharpness, test, log_every_n_steps=1)
    assert counting.calls == 6 * ["batch", "zero_grad", "step"]
    assert flow.history.steps == [1, 2, 3, 4, 5, 6]
    plain = GradientFlowMonitor(every_n_steps=1, ratio_warning=1e9, figures=False)
    plain_sharpness = SharpnessProbe(every_n_steps=3, figures=False)
    fit(tmp_path, Stateful(), Counting(), plain, plain_sharpness, log_every_n_steps=1)
    assert torch.equal(plain.history["gradient_norms"], flow.history["gradient_norms"])
    assert torch.equal(plain.history["update_ratios"], flow.history["update_ratios"])
    assert repr(plain_sharpness.history.table()) == repr(sharpness.history.table())
    assert [step for step, _ in events(trainer)["train/loss"]] == [0, 1, 2, 3, 4, 5]


def test_apply_moves_the_schedule_as_well(tmp_path) -> None:
    test = LRRangeTest(steps=40, apply=True, rule="max_stable", figures=False)
    module = Scheduled()
    fit(tmp_path, module, test)
    suggestion = json.loads((tmp_path / "run/version_0/lr_range.json").read_text())["optimizers"][0]["suggestion"]
    expected = [suggestion / (1 + step) for step in range(6)]
    assert module.rates[-6:] == pytest.approx(expected)
    assert suggestion != pytest.approx(0.01)


def test_apply_without_a_suggestion_is_an_error() -> None:
    test = LRRangeTest(steps=5, factors=(1e-9, 2e-9), apply=True)
    with pytest.raises(ValueError, match=r"rule minimum finds no learning rate to apply, .* change the range"):
        fit(None, Stateful(), test)


def test_files_figure_and_scalars(tmp_path) -> None:
    test = LRRangeTest(steps=30, seeds=[0, 1])
    trainer = fit(tmp_path, Stateful(), test)
    folder = tmp_path / "run/version_0"
    assert {path.name for path in (folder / "figures").iterdir()} == {"lr_range.png", "lr_range.svg"}
    record = json.loads((folder / "lr_range.json").read_text())["optimizers"][0]
    with (folder / "lr_range.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(curve["losses"]) for curve in record["curves"])
    assert {row["seed"] for row in rows} == {"0", "1"}
    assert float(rows[0]["loss"]) == pytest.approx(record["curves"][0]["losses"][0])
    written = events(trainer)
    for rule, value in record["suggestions"].items():
        if value is not None:
            assert written[f"lr/range_{rule}"] == [(0, pytest.approx(value))]
    first, second = (curve["losses"] for curve in record["curves"])
    assert first != second


def test_the_envelope_is_written(tmp_path) -> None:
    test = LRRangeTest(mode="envelope", steps=20, values=4)
    trainer = fit(tmp_path, Stateful(optimizer=torch.optim.SGD), test)
    record = json.loads((tmp_path / "run/version_0/lr_range.json").read_text())["optimizers"][0]
    assert [trial["learning_rate"] for trial in record["trials"]] == pytest.approx(
        [1e-3, 0.0126, 0.1587, 2.0], rel=1e-2
    )
    assert len({trial["losses"][0] for trial in record["trials"]}) == 1  # all from the same start, on the same batch
    if record["largest_stable"] is not None:
        assert events(trainer)["lr/largest_stable"] == [(0, pytest.approx(record["largest_stable"]))]


def test_a_resumed_run_does_not_test_again(tmp_path) -> None:
    def tested(module: Stateful, epochs: int, resume: Any = None) -> tuple[LRRangeTest, Any]:
        test = LRRangeTest(steps=12, apply=True, rule="max_stable", figures=False)
        options = {"max_epochs": epochs, "enable_checkpointing": True, "resume": resume}
        return test, fit(tmp_path, module, test, Checkpoints(), StepSeed(), **options)

    whole, resumed = Stateful(), Stateful()
    tested(whole, 2)
    _, trainer = tested(Stateful(), 1)
    test, _ = tested(resumed, 2, f"{trainer.log_dir}/checkpoints/last.ckpt")
    assert not test.curves
    assert resumed.rates == whole.rates[-6:]
    assert resumed.losses == whole.losses[-6:]


def test_a_module_that_knows_nothing_of_us(tmp_path, monkeypatch) -> None:
    class Foreign(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(6, 3)

        def training_step(self, batch):
            self.log("loss", 0.0)
            if self.logger is not None:
                self.logger.experiment.add_scalar("mine", 1.0, 0)
            return {"loss": nn.functional.cross_entropy(self.net(batch[0]), batch[1]), "more": 1}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    test = LRRangeTest(steps=15)
    trainer = fit(tmp_path, Foreign(), test, max_steps=2)
    assert len(test.curves[0].losses) == 15
    assert events(trainer)["mine"] == 2 * [(0, 1.0)]  # of the fit alone


def test_a_loader_of_unknown_length_that_is_given_to_fit(tmp_path) -> None:
    """The very object that the fit reads from is put back to its place."""

    class Stream(torch.utils.data.IterableDataset):
        def __init__(self) -> None:
            self.position = 0

        def __iter__(self):
            for _ in range(40):
                self.position += 1
                yield torch.full((6,), self.position / 40.0), self.position % 3

    streams = Stream(), Stream()
    watched, plain = Stateful(net=nn.Linear(6, 3)), Stateful(net=nn.Linear(6, 3))
    fit(None, watched, LRRangeTest(steps=11), data=DataLoader(streams[0], batch_size=8))
    fit(None, plain, data=DataLoader(streams[1], batch_size=8))
    assert streams[0].position == streams[1].position
    assert len(plain.losses) == 5


@pytest.mark.parametrize("workers", [{"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}])
@pytest.mark.slow
def test_workers_of_the_fit_go_on(workers) -> None:
    def data() -> DataLoader:
        inputs = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=8, shuffle=True, **workers)

    watched, plain = Stateful(), Stateful()
    fit(None, watched, LRRangeTest(steps=8), data=data(), max_epochs=2)
    fit(None, plain, data=data(), max_epochs=2)
    assert watched.losses == plain.losses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": (10.0, 1e-7)}, "a range must rise between two numbers above 0, got 10 to 1e-07"),
        ({"factors": (0.0, 1.0)}, "got 0 to 1"),
        ({"steps": 0}, "steps must be at least 2, got 0"),
        ({"mode": "envelope", "values": 1}, "at least 2 values, got 1"),
        ({"mode": "line"}, "mode must be 'range' or 'envelope', got 'line'"),
        ({"rule": "best"}, "rule must be one of .*, got 'best'"),
        ({"seeds": []}, r"seeds must be different numbers of at least 0, got \[\]"),
        ({"seeds": [1, 1]}, r"got \[1, 1\]"),
        ({"seeds": [-1]}, r"got \[-1\]"),
        ({"smoothing": 1.0}, "smoothing must lie in"),
        ({"divergence": 0.0}, "divergence must be above 0"),
        ({"stop_ratio": 1.0}, "stop_ratio must be above 1"),
        ({"rates": (0.1, 1.0), "factors": (0.1, 1.0)}, "exclude each other"),
        ({"mode": "envelope", "apply": True}, "apply needs mode 'range'"),
        ({"values": 5}, "needs mode 'envelope'"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        LRRangeTest(**options)
