"""Clipping inside the training loop: once an update, on what the optimizer is about to use."""

from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from steepest.callbacks import GradientFlowMonitor, LearningRateTracker
from steepest.lightning_modules import BaseModule
from steepest.optim import OptionSchedule
from steepest.optim.classical.torch_optimizers import adamw, momentum, sgd
from steepest.optim.clipping import Clipping, autoclip, norm
from steepest.optim.schedules import linear

INPUTS = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS.sum(1, keepdim=True) * 3


class Regression(BaseModule):
    """A line through 24 points."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        torch.manual_seed(0)
        self.network = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(self.network(inputs), targets)


class Norms(Callback):
    """Gradient norms before clipping, and those that the optimizer met."""

    def __init__(self) -> None:
        self.before: list[float] = []
        self.after: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: LightningModule, optimizer: Any) -> None:
        self.before.append(_norm(pl_module))

    def on_before_zero_grad(self, trainer: Any, pl_module: LightningModule, optimizer: Any) -> None:
        if len(self.after) < len(self.before):  # after the step before
            self.after.append(_norm(pl_module))


def _norm(module: nn.Module) -> float:
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm()) if gradients else 0.0


def fit(module: LightningModule, tmp_path: Any, *callbacks: Callback, batch_size: int = 4, **options: Any) -> Trainer:
    data = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=batch_size)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "default_root_dir": tmp_path,
            "callbacks": list(callbacks),
            **quiet,
            **options,
        }
    )
    trainer.fit(module, data)
    return trainer


def half(module: nn.Module) -> Clipping:
    return norm(module, max_norm=0.5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_before_each_update(tmp_path, precision) -> None:
    norms = Norms()
    fit(Regression(optimizer=sgd, clipping=half), tmp_path, norms, max_epochs=2, precision=precision)
    assert len(norms.before) == 12
    assert min(norms.before) > 0.5
    assert norms.after == pytest.approx([0.5] * len(norms.after), rel=1e-3)
    assert len(norms.after) >= 11


def test_a_clipped_run_is_that_of_the_trainers_own_clipping(tmp_path) -> None:
    ours, theirs = Regression(optimizer=adamw, clipping=half), Regression(optimizer=adamw)
    fit(ours, tmp_path)
    fit(theirs, tmp_path, gradient_clip_val=0.5)
    assert torch.equal(ours.network.weight, theirs.network.weight)


def test_accumulated_gradients_are_clipped_once_as_a_whole(tmp_path) -> None:
    norms = Norms()
    accumulated, whole = Regression(optimizer=sgd, clipping=half), Regression(optimizer=sgd, clipping=half)
    fit(accumulated, tmp_path, norms, accumulate_grad_batches=3)
    fit(whole, tmp_path, batch_size=12)
    assert len(norms.before) == 2
    torch.testing.assert_close(accumulated.network.weight, whole.network.weight)


def test_autoclip_notes_one_norm_an_update(tmp_path) -> None:
    module = Regression(optimizer=sgd, clipping=autoclip)
    norms = Norms()
    fit(module, tmp_path, norms, accumulate_grad_batches=2)
    assert module.clipping is not None
    history, count = module.clipping.state_dict()[0]
    assert int(count) == 3
    assert history[:3].tolist() == pytest.approx(norms.before)


@pytest.mark.parametrize("clipping", [None, half])
def test_the_monitor_measures_both_sides(tmp_path, clipping) -> None:
    class Seen(GradientFlowMonitor):
        def measure(self, *arguments: Any) -> dict[str, float]:
            values.append(super().measure(*arguments))
            return values[-1]

    values: list[dict[str, float]] = []
    norms = Norms()
    fit(Regression(optimizer=sgd, clipping=clipping), tmp_path, norms, Seen(every_n_steps=1, figures=False))
    assert [entry["grad/total_norm"] for entry in values] == pytest.approx(norms.before, rel=1e-5)
    clipped = [entry["grad/total_norm_clipped"] for entry in values if "grad/total_norm_clipped" in entry]
    assert clipped == pytest.approx([] if clipping is None else [0.5] * 6, rel=1e-5)


def test_two_clippings_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"\A--clipping and --trainer.gradient_clip_val 1.0 would clip [^\n]+ twice"):
        fit(Regression(clipping=half), tmp_path, gradient_clip_val=1.0)


class OwnOptimizer(Regression):
    """Makes its optimizer itself, out of reach of what `build_optimizer` checks."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_clipping_reaches_a_module_that_makes_its_own_optimizer(tmp_path) -> None:
    norms = Norms()
    fit(OwnOptimizer(clipping=half), tmp_path, norms)
    assert norms.after == pytest.approx([0.5] * len(norms.after), rel=1e-4)
    with pytest.raises(ValueError, match="twice"):
        fit(OwnOptimizer(clipping=half), tmp_path, gradient_clip_val=1.0)


def test_a_threshold_that_nothing_reads_is_refused(tmp_path) -> None:
    def ruled(module: nn.Module) -> torch.optim.Optimizer:
        optimizer = sgd(module)
        optimizer.param_groups[0]["clip"] = 0.1
        return optimizer

    with pytest.raises(ValueError, match=r"clip=0\.1, but no clipping is chosen"):
        fit(Regression(optimizer=ruled), tmp_path)
    norms = Norms()
    fit(Regression(optimizer=ruled, clipping=half), tmp_path, norms)
    assert norms.after == pytest.approx([0.1] * len(norms.after), rel=1e-4)


class HalfPrecisionTrainer:
    """What `build_optimizer` asks a trainer on a GPU for; there is none where tests run."""

    gradient_clip_val = None
    accumulate_grad_batches = 1
    callbacks: list[Any] = []
    estimated_stepping_batches = 10

    def __init__(self, precision: str) -> None:
        self.precision = precision


@pytest.mark.parametrize(("precision", "fused"), [("16-mixed", False), ("bf16-mixed", True), ("32-true", True)])
def test_no_fused_step_where_it_would_unscale_after_clipping(precision, fused) -> None:
    module = Regression(optimizer=lambda module: adamw(module, fused=True), clipping=half)
    module._trainer = HalfPrecisionTrainer(precision)  # type: ignore[assignment]
    (optimizer,), _ = module.configure_optimizers()
    assert bool(getattr(optimizer, "_step_supports_amp_scaling", False)) == fused


def test_options_are_scheduled_and_logged(tmp_path) -> None:
    class Seen(LearningRateTracker):
        def measure(self, *arguments: Any) -> dict[str, float]:
            values.append(super().measure(*arguments))
            return values[-1]

    values: list[dict[str, float]] = []
    schedules = {"momentum": OptionSchedule(linear, at_zero=0.5)}
    module = Regression(optimizer=momentum, schedule=linear, option_schedules=schedules)
    trainer = fit(module, tmp_path, Seen(every_n_steps=1))
    assert [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs] == [6, 6]  # type: ignore
    assert [entry["lr/all"] for entry in values] == pytest.approx([0.05 * k / 5 for k in (5, 4, 3, 2, 1, 0)])
    assert [entry["lr/all_momentum"] for entry in values] == pytest.approx([0.5 + 0.08 * k for k in (5, 4, 3, 2, 1, 0)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_under_16_mixed_the_unscaled_gradients_are_clipped(tmp_path) -> None:
    norms = Norms()
    module = Regression(optimizer=adamw, clipping=half)
    fit(module, tmp_path, norms, accelerator="gpu", devices=1, precision="16-mixed", max_epochs=4)
    finite = [index for index, before in enumerate(norms.before[:-1]) if before < 1e4]  # the scaler skips the others
    assert len(finite) > 5
    assert [norms.after[index] for index in finite] == pytest.approx([0.5] * len(finite), rel=1e-2)
