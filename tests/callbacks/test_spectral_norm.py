import gc
import json
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from steepest.callbacks.spectral_norm import SpectralNormTracker
from tests.callbacks.runs import Classifier, events, fit, warnings_of

TAGS = {
    "spectral/norm_max",
    "spectral/norm_median",
    "spectral/operator_norm_max",
    "spectral/log10_product",
    "spectral/stable_rank_median",
    "spectral/stable_rank_min",
    "spectral/condition_max",
    "spectral/update_norm_max",
    "spectral/relative_update_max",
    "spectral/update_stable_rank_median",
    "spectral/drift_max",
    "spectral/drift_median",
    "spectral/update_drift_max",
}


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(8, 70, 3, padding=1, stride=2),
        nn.Flatten(),
        nn.Linear(140, 80),
        nn.Linear(80, 3),
    )


class Recording(Classifier):
    """Keeps every matrix before and after each step."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"net": convolutions(), **options})
        self.matrices: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self._keep()

    def on_train_end(self) -> None:
        super().on_train_end()
        self._keep()

    def _keep(self) -> None:
        named = self.net.named_parameters()
        self.matrices.append({f"net.{n}": p.detach().double().flatten(1).clone() for n, p in named if p.ndim > 1})


def tracker(**options: Any) -> SpectralNormTracker:
    return SpectralNormTracker(**{"every_n_steps": 1, "exact_every": 3, "figures": False, "strict": True, **options})


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2}])
def test_training_is_bit_for_bit_the_same(tmp_path, options) -> None:
    plain, watched = Classifier(convolutions()), Classifier(convolutions())
    fit(tmp_path, plain, max_epochs=2, **options)
    fit(tmp_path, watched, tracker(spectrum=True), max_epochs=2, **options)
    assert all(torch.equal(one, other) for one, other in zip(plain.weights, watched.weights, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(plain.buffers(), watched.buffers(), strict=True))
    assert plain.draws == watched.draws


def test_scalars_equal_what_the_run_did(tmp_path) -> None:
    module = Recording()
    callback = tracker(exact_every=1)
    trainer = fit(tmp_path, module, callback)
    written = events(trainer)
    assert {tag for tag in written if tag.startswith("spectral/")} == TAGS
    assert "diagnostics/spectral_norm_seconds" in written
    for step in range(1, 7):
        before, after = module.matrices[step - 1], module.matrices[step]
        norms = {name: float(torch.linalg.matrix_norm(weight, ord=2)) for name, weight in after.items()}
        changes = {name: torch.linalg.svdvals(after[name] - before[name]) for name in after}
        ranks = {name: float(weight.norm()) ** 2 / norms[name] ** 2 for name, weight in after.items()}
        relative = [float(values[0]) / norms[name] for name, values in changes.items()]
        expected = {
            "spectral/norm_max": max(norms.values()),
            "spectral/norm_median": sum(sorted(norms.values())[1:3]) / 2,
            "spectral/stable_rank_min": min(ranks.values()),
            "spectral/update_norm_max": max(float(values[0]) for values in changes.values()),
            "spectral/relative_update_max": max(relative),
        }
        for tag, value in expected.items():
            found = written[tag][step - 1]
            assert found == (step, pytest.approx(value, rel=1e-5)), tag
    last = callback.summary()
    assert last is not None
    assert last.names == tuple(module.matrices[0])
    assert last.log10_product == pytest.approx(written["spectral/log10_product"][-1][1], rel=1e-5)


def test_cadence_and_exact_measurements(tmp_path) -> None:
    trainer = fit(tmp_path, Recording(), tracker(every_n_steps=2, exact_every=2), max_epochs=2)
    written = events(trainer)
    assert [step for step, _ in written["spectral/norm_max"]] == [1, 2, 4, 6, 8, 10, 12]
    assert [step for step, _ in written["spectral/drift_max"]] == [1, 4, 8, 12]
    assert [step for step, _ in written["spectral/condition_max"]] == [1, 4, 8, 12]
    assert max(value for _, value in written["spectral/drift_max"]) < 0.1


def test_files(tmp_path) -> None:
    callback = tracker(figures=True, spectrum=True)
    fit(tmp_path, Classifier(convolutions()), callback)
    folder = tmp_path / "run" / "version_0"
    names = ("spectral_norm_by_layer", "spectral_heat_map", "spectra")
    expected = {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    assert {path.name for path in (folder / "figures").iterdir()} == expected
    report = json.loads((folder / "spectral_norm.json").read_text())
    last = callback.summary()
    assert last is not None
    assert (report["step"], report["exact"]["step"]) == (6, 4)
    assert report["input_shapes"] == {"net.1": [1, 2, 3], "net.5": [8, 2, 3]}
    assert report["last"]["norms"] == list(last.norms)
    assert report["last"]["conditions"][1] is None  # not an exact measurement
    assert len(report["exact"]["spectra"]["net.5.weight"]) == 70
    assert report["history"]["steps"] == [1, 2, 3, 4, 5, 6]
    assert report["history"]["norms"][-1] == pytest.approx(last.norms, rel=1e-6)


def test_updates_and_operators_can_be_left_out(tmp_path) -> None:
    callback = tracker(updates=False, operators=False)
    written = events(fit(tmp_path, Classifier(convolutions()), callback))
    assert "spectral/norm_max" in written
    assert not {tag for tag in written if "update" in tag} - {"diagnostics/spectral_norm_seconds"}
    assert "spectral/operator_norm_max" not in written
    assert "spectral/log10_product" not in written


def test_a_resumed_run_measures_the_same(tmp_path) -> None:
    def data() -> DataLoader:
        generator = torch.Generator().manual_seed(5)
        inputs = torch.randn(48, 6, generator=generator)
        return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=8)

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 90), nn.ReLU(), nn.Linear(90, 80), nn.Linear(80, 3))

    whole = tracker(exact_every=5)
    fit(tmp_path, Classifier(net()), whole, data=data(), max_epochs=2)
    half = tracker(exact_every=5)
    trainer = fit(tmp_path, Classifier(net()), half, data=data(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = tracker(exact_every=5)
    fit(tmp_path, Classifier(net()), resumed, data=data(), max_epochs=2, resume=tmp_path / "half.ckpt")
    assert repr(resumed.history.table()) == repr(whole.history.table())
    assert repr(resumed.summary()) == repr(whole.summary())
    torch.load(tmp_path / "half.ckpt", weights_only=True)


def test_a_step_that_cannot_be_probed_leaves_the_kernels(tmp_path) -> None:
    class Manual(Classifier):
        def __init__(self) -> None:
            super().__init__(convolutions())
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            parameters = list(self.parameters())
            return torch.optim.SGD(parameters[:4], lr=0.1), torch.optim.Adam(parameters[4:], lr=0.1)

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.zero_grad()
                self.manual_backward(self.net(batch[0]).square().mean())
                optimizer.step()

    callback = tracker(every_n_steps=2, strict=False)
    with warnings_of("SpectralNormTracker") as messages:
        trainer = fit(tmp_path, Manual(), callback)
    assert messages == [
        "SpectralNormTracker: Manual optimizes manually, so its training_step would train: "
        "give it a method diagnostic_loss(batch)"
    ]
    written = events(trainer)
    assert len(written["spectral/norm_max"]) == 6
    assert "spectral/operator_norm_max" not in written
    last = callback.summary()
    assert last is not None
    assert not any(math.isnan(norm) for norm in last.update_norms)  # of both optimizers


def test_a_nan_is_named_and_leaves_a_gap(tmp_path) -> None:
    class Poisoned(Classifier):
        def on_after_backward(self) -> None:
            if self.trainer.global_step == 2:
                self.net[4].weight.grad[0, 0] = math.nan  # type: ignore[index, union-attr]

    with warnings_of("SpectralNormTracker") as messages:
        trainer = fit(tmp_path, Poisoned(), tracker())
    assert messages == ["SpectralNormTracker: step 3: net.4.weight is not finite"]
    assert all(math.isfinite(value) for values in events(trainer).values() for _, value in values)


@pytest.mark.parametrize("case", ["compiled", "bf16-mixed", "bf16-true", "lbfgs"])
def test_other_ways_to_train(tmp_path, case) -> None:
    module, options = Classifier(convolutions()), {}
    if case == "compiled":
        module.net = torch.compile(module.net, backend="aot_eager")
    elif case == "lbfgs":
        module = Classifier(convolutions(), torch.optim.LBFGS, max_iter=3)
    else:
        options["precision"] = case
    callback = tracker()
    fit(tmp_path, module, callback, **options)
    last = callback.summary()
    assert last is not None
    assert last.names == ("net.1.weight", "net.5.weight", "net.7.weight", "net.8.weight")
    assert callback.history.steps == [1, 2, 3, 4, 5, 6]
    assert not torch.isnan(callback.history["update_norms"]).any()
    assert not math.isnan(last.log10_product)


def test_updates_are_let_go(tmp_path) -> None:
    class Watching(Classifier):
        references: list[Any] = []
        alive: list[int] = []

        def on_train_batch_start(self, batch, batch_idx) -> None:
            super().on_train_batch_start(batch, batch_idx)
            gc.collect()
            self.alive.append(sum(reference() is not None for reference in self.references))

    class Looking(SpectralNormTracker):
        def measure(self, trainer, pl_module, batch):
            assert self._recorder is not None
            for changes in self._recorder.changes.values():
                pl_module.references.extend(weakref.ref(change) for change in changes.values())
            return super().measure(trainer, pl_module, batch)

    module = Watching(convolutions())
    fit(tmp_path, module, Looking(every_n_steps=1, figures=False, strict=True))
    assert len(module.references) == 24
    assert set(module.alive) == {0}


def test_a_module_without_matrices(tmp_path) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

        def forward(self, images: Tensor) -> Tensor:
            return images[:, :3] * self.gain

    trainer = fit(tmp_path, Classifier(Scale()), tracker())
    assert not {tag for tag in events(trainer) if tag.startswith("spectral/")}
    assert not (tmp_path / "run" / "version_0" / "spectral_norm.json").exists()


def test_arguments() -> None:
    with pytest.raises(ValueError, match="exact_every must be at least 1, got 0"):
        SpectralNormTracker(exact_every=0)
    with pytest.raises(ValueError, match="exactly one of"):
        SpectralNormTracker(every_n_epochs=1)
    assert SpectralNormTracker(None, at_steps=[3]).cadence.next_step(0) == 3
