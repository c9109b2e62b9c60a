import json
import math
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from steepest.callbacks.noise_scale import GradientNoiseScale
from steepest.diagnostics.noise_scale.noise_scale import noise_sample
from tests.callbacks.runs import Classifier, events, fit, loader, network, warnings_of

NAMES = {"scale", "scale_low", "scale_high", "gradient_square", "trace", "effective_count", "half_difference"}


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def noise(**options: Any) -> GradientNoiseScale:
    return GradientNoiseScale(**{"every_n_steps": 1, "figures": False, "strict": True, **options})


class Recording(Classifier):
    """Keeps the gradient of every micro-batch, computed on the side in float64."""

    def __init__(self, net: nn.Module | None = None, **options: Any) -> None:
        super().__init__(net or plain(), **options)
        self.parts: list[Tensor] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.parts.append(self.gradient(batch))

    def gradient(self, batch: Any) -> Tensor:
        weights = {name: p.detach().double().requires_grad_() for name, p in self.net.named_parameters()}
        scores = torch.func.functional_call(self.net, weights, (batch[0].double(),))
        loss = nn.functional.cross_entropy(scores, batch[1])
        return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(weights.values()))])


def expected(parts: list[Tensor], sizes: list[int]):
    gradients = torch.stack(parts)
    return noise_sample(gradients.square().sum(1).tolist(), float(gradients.mean(0).square().sum()), sizes)


@pytest.mark.parametrize("source", ["auto", "probe"])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}])
def test_training_is_bit_for_bit_the_same(tmp_path, source, options) -> None:
    bare, watched = Classifier(), Classifier()
    fit(tmp_path, bare, max_epochs=2, **options)
    callback = noise(source=source)
    fit(tmp_path, watched, callback, max_epochs=2, **options)
    assert all(torch.equal(one, other) for one, other in zip(bare.weights, watched.weights, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(bare.buffers(), watched.buffers(), strict=True))
    assert bare.draws == watched.draws
    assert len(callback.history) == (12 if not options else 6)


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_micro_batches_are_the_parts(tmp_path, clip) -> None:
    module = Recording()
    trainer = fit(tmp_path, module, noise(), accumulate_grad_batches=3, max_epochs=2, gradient_clip_val=clip)
    written = events(trainer)
    assert {tag for tag in written if tag.startswith("noise/")} <= {f"noise/{name}" for name in NAMES}
    samples = [expected(module.parts[3 * step : 3 * step + 3], [8] * 3) for step in range(4)]
    halves = [value for _, value in written["noise/half_difference"]]
    assert halves == pytest.approx([sample.half_difference for sample in samples], rel=1e-4)
    weights = [0.95 ** (3 - step) for step in range(4)]
    for tag in ("gradient_square", "trace"):
        mean = sum(w * getattr(s, tag) for w, s in zip(weights, samples, strict=True)) / sum(weights)
        assert written[f"noise/{tag}"][-1] == (4, pytest.approx(mean, rel=1e-4))
    assert written["noise/effective_count"][-1][1] == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))


def test_the_last_step_of_an_epoch_may_have_fewer_and_smaller_micro_batches(tmp_path) -> None:
    module, callback = Recording(), noise()
    inputs = torch.randn(36, 6, generator=torch.Generator().manual_seed(1))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=8)
    fit(tmp_path, module, callback, data=data, accumulate_grad_batches=3)
    assert callback.history["batch_size"].tolist() == [24, 12]
    last = expected(module.parts[3:], [8, 4])
    assert callback.history["half_difference"].tolist()[1] == pytest.approx(last.half_difference, rel=1e-4)
    assert callback.history["part_size"].tolist()[1] == pytest.approx(last.part_size)


def test_a_probe_cuts_the_batch(tmp_path) -> None:
    module = Recording()
    gradients: list[list[Tensor]] = []

    class Checking(GradientNoiseScale):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            if batch_idx % 2 == 1:
                parts = [(batch[0][start : start + 2], batch[1][start : start + 2]) for start in range(0, 8, 2)]
                gradients.append([module.gradient(part) for part in parts])

    callback = Checking(every_n_steps=2, strict=True, figures=False)
    trainer = fit(tmp_path, module, callback)
    samples = [expected(parts, [2] * 4) for parts in gradients]
    written = events(trainer)
    assert {tag for tag in written if tag.startswith("noise/")} <= {f"noise/batch_{name}" for name in NAMES}
    assert [step for step, _ in written["noise/batch_trace"]] == [2, 4, 6]
    assert callback.history["half_difference"].tolist() == pytest.approx([s.half_difference for s in samples], rel=1e-4)
    assert callback.history["trace"].tolist()[0] == pytest.approx(samples[0].trace, rel=1e-4)
    assert callback.history["batch_size"].tolist() == [8, 8, 8]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_probe_by_epochs(tmp_path, accumulated) -> None:
    callback = noise(every_n_steps=None, every_n_epochs=1, source="probe")
    fit(tmp_path, Classifier(plain()), callback, max_epochs=2, accumulate_grad_batches=accumulated)
    assert callback.history.steps == ([6, 12] if accumulated == 1 else [3, 6])


def test_the_mode_of_batch_normalization_is_in_the_name(tmp_path) -> None:
    batch, running = noise(), noise(batch_norm="running", probe_batch=6, splits=3)
    assert "noise/batch_trace" in events(fit(tmp_path, Classifier(network()), batch))
    assert "noise/running_trace" in events(fit(tmp_path, Classifier(network()), running))
    assert batch.history["trace"].tolist() != running.history["trace"].tolist()
    assert running.history["batch_size"].tolist() == [6] * 6


@pytest.mark.parametrize("fused", [False, True])
def test_loss_scaling_is_divided_out(tmp_path, fused) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    scaled, exact = noise(), noise()
    options: dict[str, Any] = {"accumulate_grad_batches": 2}
    fit(tmp_path, Classifier(plain(), torch.optim.SGD, fused=fused), scaled, plugins=[plugin], **options)
    fit(tmp_path, Classifier(plain(), torch.optim.SGD), exact, **options)
    for field in ("half_difference", "gradient_square"):
        assert scaled.history[field].tolist() == pytest.approx(exact.history[field].tolist(), rel=0.05)


def test_infinities_of_a_loss_scaler_are_left_out(tmp_path) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**60))
    callback = noise()
    with warnings_of("GradientNoiseScale") as messages:
        fit(tmp_path, Classifier(plain()), callback, plugins=[plugin], accumulate_grad_batches=2)
    assert messages == ["GradientNoiseScale: the gradient at step 1 is not finite and is left out"]
    assert len(callback.history) == 0


@pytest.mark.parametrize("case", ["compiled", "bf16-mixed", "lbfgs", "epochs"])
def test_other_ways_to_train(tmp_path, case) -> None:
    module, options, callback = Recording(), {"accumulate_grad_batches": 2}, noise()
    steps = [1, 2, 3, 4, 5, 6]
    if case == "compiled":
        module.net = torch.compile(module.net, backend="aot_eager")
    elif case == "bf16-mixed":
        options["precision"] = case
    elif case == "lbfgs":
        module, options = Recording(optimizer=torch.optim.LBFGS, max_iter=3), {}
    else:
        callback, steps = noise(every_n_steps=None, every_n_epochs=2), [6]
    trainer = fit(tmp_path, module, callback, max_epochs=2, **options)
    assert callback.history.steps == (steps if case != "lbfgs" else list(range(1, 13)))
    assert trainer.global_step == callback.history.steps[-1]
    if case == "epochs":
        last = expected(module.parts[-2:], [8, 8])
        assert callback.history["half_difference"].tolist() == pytest.approx([last.half_difference], rel=1e-4)
    if case == "compiled":
        samples = [expected(module.parts[2 * step : 2 * step + 2], [8, 8]) for step in range(6)]
        assert callback.history["half_difference"].tolist() == pytest.approx(
            [s.half_difference for s in samples], rel=1e-3
        )
    assert not any(parameter._backward_hooks for parameter in module.parameters())


def test_manual_optimization_needs_a_loss_to_probe(tmp_path) -> None:
    class Manual(Classifier):
        def __init__(self) -> None:
            super().__init__(plain())
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()

    with warnings_of("GradientNoiseScale") as messages:
        fit(tmp_path, Manual(), noise(strict=False))
    assert messages == [
        "GradientNoiseScale: Manual optimizes manually, so its training_step would train: "
        "give it a method diagnostic_loss(batch)"
    ]
    Manual.diagnostic_loss = lambda self, batch: self.net(batch[0]).square().mean()  # type: ignore[attr-defined]
    trainer = fit(tmp_path, Manual(), noise())
    assert len(events(trainer)["noise/batch_trace"]) == 6


def test_a_batch_too_small_to_cut_is_said(tmp_path) -> None:
    with warnings_of("GradientNoiseScale") as messages:
        fit(tmp_path, Classifier(plain()), noise(strict=False), data=loader(size=3))
    assert messages == ["GradientNoiseScale: a batch of 3 samples cannot be cut into 4 parts"]


def test_undefined_is_said_and_not_zero(tmp_path, caplog) -> None:
    class Noise(Classifier):
        """Its true gradient is zero."""

        def training_step(self, batch, batch_idx):
            return (self.net[0].bias * batch[0][:, :1]).mean(0).sum()  # type: ignore[index, operator]

    torch.manual_seed(3)
    inputs = torch.randn(24, 6)
    inputs = torch.cat([inputs, -inputs], 1).reshape(48, 6)  # +x and -x, part by part
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, torch.zeros(48)), batch_size=8)
    callback = noise(splits=8)
    with caplog.at_level("INFO"):
        trainer = fit(tmp_path, Noise(plain(), torch.optim.SGD), callback, data=data)
    assert "the noise scale is undefined: the gradient behind its noise cannot be estimated yet" in caplog.text
    assert "noise/batch_scale" not in events(trainer)
    assert math.isnan(callback.summary().scale)
    report = json.loads((tmp_path / "run" / "version_0" / "noise_scale.json").read_text())
    assert report["scale"] is None
    assert report["verdict"].startswith("undefined")


def test_files(tmp_path) -> None:
    callback = noise(figures=True)
    fit(tmp_path, Classifier(plain()), callback, max_epochs=2)
    folder = tmp_path / "run" / "version_0"
    assert {path.name for path in (folder / "figures").iterdir()} == {"noise_scale.png", "noise_scale.svg"}
    report = json.loads((folder / "noise_scale.json").read_text())
    assert report["unit"] == "samples"
    assert report["scale"] == callback.summary().scale
    assert report["history"]["steps"] == list(range(1, 13))


def test_a_resumed_run_continues_the_averages(tmp_path) -> None:
    for options in ({}, {"accumulate_grad_batches": 2}):
        whole, half, resumed = noise(), noise(), noise()
        fit(tmp_path, Classifier(plain()), whole, max_epochs=2, **options)
        trainer = fit(tmp_path, Classifier(plain()), half, max_epochs=1, **options)
        trainer.save_checkpoint(tmp_path / "half.ckpt")
        fit(tmp_path, Classifier(plain()), resumed, max_epochs=2, resume=tmp_path / "half.ckpt", **options)
        assert resumed.summary() == whole.summary()
        assert repr(resumed.history.table()) == repr(whole.history.table())
        torch.load(tmp_path / "half.ckpt", weights_only=True)


def test_a_single_gradient_a_step_is_no_source(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"source='training' needs several ranks .* use source='probe'"):
        fit(tmp_path, Classifier(plain()), noise(source="training"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "ranks"}, "source must be 'auto', 'training' or 'probe', got 'ranks'"),
        ({"batch_norm": "both"}, "batch_norm must be 'batch' or 'running', got 'both'"),
        ({"splits": 1}, "splits must be at least 2, got 1"),
        ({"probe_batch": 3}, "probe_batch must be None or at least splits=4, got 3"),
        ({"decay": 1.5}, "decay must be in"),
        ({"every_n_epochs": 1}, "exactly one of"),
    ],
)
def test_arguments(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        GradientNoiseScale(**options)
