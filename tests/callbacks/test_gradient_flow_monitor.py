import gc
import json
import math
import weakref
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from steepest.callbacks.gradient_flow import GradientFlowMonitor
from tests.callbacks.runs import Classifier, events, fit, loader, network, warnings_of


class Recording(Classifier):
    """Keeps a float64 copy of every gradient as the backward pass left it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gradients: list[list[torch.Tensor]] = []

    def on_before_optimizer_step(self, optimizer) -> None:
        self.gradients.append(
            [torch.zeros(1) if p.grad is None else p.grad.detach().double().clone() for p in self.parameters()]
        )


class Planted(Classifier):
    """The gradient of one layer is NaN at step 3."""

    def on_after_backward(self) -> None:
        if self.trainer.global_step == 2:
            self.net[4].weight.grad[0, 0] = math.nan  # type: ignore[index, union-attr]


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 3)


def total(tensors) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def monitor(**options: Any) -> GradientFlowMonitor:
    return GradientFlowMonitor(
        **{"every_n_steps": 1, "ratio_warning": 1e9, "dead_units_every": 1, "figures": False, **options}
    )


@pytest.mark.parametrize("on_nonfinite", ["warn", "skip", "stop"])
def test_training_is_bit_for_bit_the_same(tmp_path, on_nonfinite) -> None:
    plain, watched = Classifier(), Classifier()
    fit(tmp_path, plain, max_epochs=2, gradient_clip_val=0.5)
    fit(tmp_path, watched, monitor(on_nonfinite=on_nonfinite), max_epochs=2, gradient_clip_val=0.5)
    assert all(torch.equal(one, other) for one, other in zip(plain.weights, watched.weights, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(plain.buffers(), watched.buffers(), strict=True))
    assert plain.draws == watched.draws


def test_scalars_equal_what_the_run_did(tmp_path) -> None:
    module, callback = Recording(), monitor(every_n_steps=2)
    trainer = fit(tmp_path, module, callback, gradient_clip_val=0.3)
    written = events(trainer)
    steps = [2, 4, 6]
    assert set(written) - {"train/loss", "epoch"} == {
        "grad/total_norm",
        "grad/total_norm_clipped",
        "grad/max_min_ratio",
        "grad/zero_fraction",
        "grad/dead_relu_fraction",
        "grad/nonfinite",
        "grad/weight_norm",
        "update/relative_size",
        "update/relative_size_max",
        "diagnostics/gradient_flow_seconds",
    }
    for tag in set(written) - {"train/loss", "epoch"}:
        assert [step for step, _ in written[tag]] == steps
    for index, step in enumerate(steps):
        gradients = module.gradients[step - 1]
        before, after = module.weights[step - 1], module.weights[step]
        assert written["grad/total_norm"][index][1] == pytest.approx(total(gradients), rel=1e-5)
        assert written["grad/total_norm_clipped"][index][1] == pytest.approx(min(0.3, total(gradients)), rel=1e-4)
        assert written["grad/weight_norm"][index][1] == pytest.approx(total([before]), rel=1e-5)
        change = total([after - before]) / total([before])
        assert written["update/relative_size"][index][1] == pytest.approx(change, rel=1e-4)
        matrices = [float(gradients[place].norm()) for place in (0, 4, 6)]
        assert written["grad/max_min_ratio"][index][1] == pytest.approx(max(matrices) / min(matrices), rel=1e-4)
        zeros = sum(int((gradient == 0).sum()) for gradient in gradients)
        entries = sum(gradient.numel() for gradient in gradients)
        assert written["grad/zero_fraction"][index][1] == pytest.approx(zeros / entries, rel=1e-5, abs=1e-9)
    last = callback.summary()
    assert last is not None
    assert last.names == tuple(name for name, _ in module.named_parameters())
    assert last.gradient_norms == pytest.approx([float(g.norm()) for g in module.gradients[-1]], rel=1e-5)


def test_value_clipping_and_accumulation(tmp_path) -> None:
    module = Recording()
    trainer = fit(
        tmp_path,
        module,
        monitor(),
        gradient_clip_val=0.01,
        gradient_clip_algorithm="value",
        accumulate_grad_batches=2,
    )
    written = events(trainer)
    assert [step for step, _ in written["grad/total_norm"]] == [1, 2, 3]
    for (_, found), gradients in zip(written["grad/total_norm"], module.gradients, strict=True):
        assert found == pytest.approx(total(gradients), rel=1e-5)
    for (_, found), gradients in zip(written["grad/total_norm_clipped"], module.gradients, strict=True):
        assert found == pytest.approx(total([gradient.clamp(-0.01, 0.01) for gradient in gradients]), rel=1e-5)


def test_files_hold_the_last_sample_and_the_history(tmp_path) -> None:
    callback = monitor(figures=True)
    fit(tmp_path, Classifier(), callback)
    folder = tmp_path / "run" / "version_0"
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in ("gradient_norm_by_layer", "gradient_flow_heat_map") for suffix in ("png", "svg")
    }
    report = json.loads((folder / "gradient_flow.json").read_text())
    last = callback.summary()
    assert last is not None
    assert report["step"] == 6
    assert report["verdict"] == "healthy"
    assert report["last"]["gradient_norms"] == list(last.gradient_norms)
    assert report["history"]["steps"] == [1, 2, 3, 4, 5, 6]
    assert report["history"]["gradient_norms"][-1] == pytest.approx(last.gradient_norms, rel=1e-6)
    assert set(report["dead_relu_units"]) == {"net.2", "net.5"}


def test_a_planted_dead_layer_is_reported(tmp_path) -> None:
    net = network()
    with torch.no_grad():
        net[4].weight.zero_()  # type: ignore[union-attr, operator]
        net[4].bias.fill_(-1.0)  # type: ignore[union-attr, operator]
    callback = monitor(ratio_warning=100.0)
    with warnings_of("GradientFlowMonitor") as messages:
        trainer = fit(tmp_path, Classifier(net, torch.optim.SGD), callback)
    assert messages == ["GradientFlowMonitor: step 1: no gradient reaches layer 'net.0' and 2 more"]
    assert callback.dead_units["net.5"] == 1.0
    alive = callback.dead_units["net.2"]
    assert events(trainer)["grad/dead_relu_fraction"][-1][1] == pytest.approx((alive + 1.0) / 2)
    assert "grad/max_min_ratio" not in events(trainer)  # infinite: a gap


def test_dead_units_can_be_left_out(tmp_path) -> None:
    assert "grad/dead_relu_fraction" not in events(fit(tmp_path, Classifier(), monitor(probe_batch=0)))


def test_dead_units_are_counted_at_every_nth_measurement(tmp_path) -> None:
    trainer = fit(tmp_path, Classifier(), monitor(dead_units_every=2))
    assert [step for step, _ in events(trainer)["grad/dead_relu_fraction"]] == [1, 3, 5]
    assert not (tmp_path / "run" / "version_0" / "figures").exists()


def test_nonfinite_warn(tmp_path) -> None:
    with warnings_of("GradientFlowMonitor") as messages:
        trainer = fit(tmp_path, Planted(), monitor())
    assert messages == [
        "GradientFlowMonitor: non-finite gradient at step 3, first in layer 'net.4': lower the learning rate, "
        "clip the gradients (trainer.gradient_clip_val) or warm up longer"
    ]
    written = events(trainer)
    assert written["grad/nonfinite"][:3] == [(1, 0.0), (2, 0.0), (3, 1.0)]
    assert [step for step, _ in written["grad/total_norm"]] == [1, 2]  # a gap, not NaN


@pytest.mark.parametrize("every", [1, 50])
def test_nonfinite_skip_leaves_weights_and_state(tmp_path, every) -> None:
    module, callback = Planted(), monitor(on_nonfinite="skip", every_n_steps=every)
    with warnings_of("GradientFlowMonitor") as messages:
        trainer = fit(tmp_path, module, callback, gradient_clip_val=1.0)
    assert messages == [
        "GradientFlowMonitor: non-finite gradient at step 3, first in layer 'net.4': this step is skipped; "
        "further ones are counted in grad/skipped_steps"
    ]
    assert torch.equal(module.weights[2], module.weights[3])
    assert not torch.equal(module.weights[3], module.weights[4])
    assert torch.isfinite(module.weights[-1]).all()
    states = trainer.optimizers[0].state.values()
    assert {int(state["step"]) for state in states} == {5}
    assert callback.skipped_steps == 1
    if every == 1:
        assert [value for _, value in events(trainer)["grad/skipped_steps"]] == [0, 0, 1, 1, 1, 1]


def test_nonfinite_stop(tmp_path) -> None:
    with pytest.raises(FloatingPointError, match=r"at step 3, first in layer 'net\.4': lower the learning rate"):
        fit(tmp_path, Planted(), monitor(on_nonfinite="stop", every_n_steps=2))
    assert (tmp_path / "run" / "version_0" / "gradient_flow.json").exists()


@pytest.mark.parametrize("fused", [False, True])
def test_loss_scaling_is_divided_out(tmp_path, fused) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    scaled = fit(
        tmp_path,
        Classifier(linear(), torch.optim.SGD, fused=fused),
        monitor(),
        plugins=[plugin],
        accelerator="cpu",
    )
    plain = fit(tmp_path, Classifier(linear(), torch.optim.SGD), monitor())
    found, expected = (dict(events(trainer)["grad/total_norm"]) for trainer in (scaled, plain))
    assert found == pytest.approx(expected, rel=0.02)
    found, expected = (dict(events(trainer)["update/relative_size"]) for trainer in (scaled, plain))
    assert found == pytest.approx(expected, rel=0.02)


def test_infinities_of_a_loss_scaler_are_its_own_business(tmp_path) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**60))
    module = Classifier(linear(), torch.optim.SGD)
    with warnings_of("GradientFlowMonitor") as messages:
        trainer = fit(tmp_path, module, monitor(on_nonfinite="stop"), plugins=[plugin])
    assert trainer.global_step == 6
    assert messages == []
    assert torch.equal(module.weights[0], module.weights[1])


def test_bfloat16_autocast(tmp_path) -> None:
    module = Recording()
    trainer = fit(tmp_path, module, monitor(), precision="bf16-mixed")
    found = [value for _, value in events(trainer)["grad/total_norm"]]
    assert found == pytest.approx([total(gradients) for gradients in module.gradients], rel=1e-5)


def test_compiled_submodules(tmp_path) -> None:
    class Compiled(Recording):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(self.net, backend="aot_eager")

    module, callback = Compiled(), monitor(strict=True)
    trainer = fit(tmp_path, module, callback)
    last = callback.summary()
    assert last is not None
    assert last.layers[0] == "net.0"
    assert [value for _, value in events(trainer)["grad/total_norm"]] == pytest.approx(
        [total(gradients) for gradients in module.gradients], rel=1e-5
    )
    assert len(events(trainer)["grad/dead_relu_fraction"]) == 6


def test_closures_called_several_times_count_once(tmp_path) -> None:
    module = Recording(nn.Sequential(nn.Linear(6, 3)), torch.optim.LBFGS, max_iter=4, lr=0.1)
    trainer = fit(tmp_path, module, monitor())
    assert len(module.gradients) > 6
    written = events(trainer)
    assert [step for step, _ in written["grad/total_norm"]] == [1, 2, 3, 4, 5, 6]
    assert written["grad/total_norm"][0][1] == pytest.approx(total(module.gradients[0]), rel=1e-5)
    change = total([module.weights[1] - module.weights[0]]) / total([module.weights[0]])
    assert written["update/relative_size"][0][1] == pytest.approx(change, rel=1e-5)


def test_manual_optimization_with_two_optimizers(tmp_path) -> None:
    class Adversarial(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.norms: list[float] = []

        def configure_optimizers(self):
            parameters = list(self.parameters())
            return torch.optim.SGD(parameters[4:], lr=0.1), torch.optim.Adam(parameters[:4], lr=0.1)

        def training_step(self, batch, batch_idx):
            squares = 0.0
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.zero_grad()
                self.manual_backward(self.net(batch[0]).square().mean())
                squares += total([p.grad for group in optimizer.param_groups for p in group["params"]]) ** 2
                optimizer.step()
            self.norms.append(math.sqrt(squares))

    module, callback = Adversarial(), monitor(every_n_steps=2)
    with warnings_of("GradientFlowMonitor") as messages:
        trainer = fit(tmp_path, module, callback)
    assert messages == [
        "GradientFlowMonitor: Adversarial optimizes manually, so its training_step would train: "
        "give it a method diagnostic_loss(batch)"
    ]
    written = events(trainer)
    assert [step for step, _ in written["grad/total_norm"]] == [2, 4, 6, 8, 10, 12]
    assert [value for _, value in written["grad/total_norm"]] == pytest.approx(module.norms, rel=1e-5)
    last = callback.summary()
    assert last is not None
    assert last.names == tuple(name for name, _ in module.named_parameters())
    assert last.update_norms is not None


def test_frozen_and_unused_parameters(tmp_path) -> None:
    module = Classifier()
    module.net[0].weight.requires_grad = False  # type: ignore[index, union-attr]
    module.unused = nn.Linear(2, 2)
    callback = monitor()
    with warnings_of("GradientFlowMonitor") as messages:
        fit(tmp_path, module, callback)
    assert messages == ["GradientFlowMonitor: step 1: no gradient reaches layer 'unused'"]
    last = callback.summary()
    assert last is not None
    assert "net.0.weight" not in last.names
    assert last.gradient_norms[last.names.index("unused.weight")] == 0.0
    assert last.verdict() == "no gradient reaches layer 'unused'"


def test_state_round_trip(tmp_path) -> None:
    first = monitor()
    trainer = fit(tmp_path, Classifier(), first)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = monitor()
    fit(tmp_path, Classifier(), second, max_epochs=2, resume=tmp_path / "half.ckpt")
    assert second.history.steps == list(range(1, 13))
    assert torch.equal(second.history["gradient_norms"][:6], first.history["gradient_norms"])
    third = monitor()
    third.load_state_dict(first.state_dict())
    assert third.summary() == first.summary()


def test_no_batch_is_kept_and_hooks_are_removed(tmp_path) -> None:
    batches: list[weakref.ref] = []

    class Watching(Classifier):
        def training_step(self, batch, batch_idx):
            batches.append(weakref.ref(batch[0]))
            return super().training_step(batch, batch_idx)

    callback = monitor()
    trainer = fit(tmp_path, Watching(), callback, data=loader(batches=12))
    gc.collect()
    assert sum(batch() is not None for batch in batches) <= 1
    optimizer = trainer.optimizers[0]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert callback._recorder is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_nonfinite": "ignore"}, "'warn', 'skip' or 'stop', got 'ignore'"),
        ({"ratio_warning": 1.0}, r"above 1, got 1\.0"),
        ({"probe_batch": -1}, "number of samples, got -1"),
        ({"dead_units_every": 0}, "at least 1, got 0"),
        ({"at_steps": [3]}, "exactly one of"),
    ],
)
def test_bad_arguments_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        GradientFlowMonitor(**options)
