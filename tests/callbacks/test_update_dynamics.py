import json
import math
import weakref
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from steepest.callbacks.update_dynamics import UpdateDynamics
from steepest.optim.classical.sam import sam
from steepest.optim.spectral.budget import muon_sgd
from steepest.optim.spectral.muon import muon
from tests.callbacks.runs import Classifier, events, fit, loader, network, warnings_of

ROLLED = [f"update/{name}" for name in ("effective_lr", "cosine_to_gradient", "cosine_to_previous")]
TAGS = {
    *ROLLED,
    *(f"{tag}_{kind}" for tag in ROLLED for kind in ("min", "median", "max")),
    *(f"update/relative_size_{kind}" for kind in ("min", "median")),
    *(f"update/subspace_drift{since}_{kind}" for since in ("", "_from_start") for kind in ("median", "max")),
}


class Recording(Classifier):
    """Keeps the gradient of every step as the first backward pass left it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gradients: dict[int, Tensor] = {}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        gradients = [parameter.grad.flatten() for parameter in self.parameters() if parameter.grad is not None]
        self.gradients.setdefault(self.trainer.global_step, torch.cat(gradients).clone())


class Routed(Recording):
    """With an optimizer of ours, which wants the module."""

    def configure_optimizers(self) -> Any:
        return self.optimizer(self, **self.options)


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Dropout(0.1), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))


def dynamics(**options: Any) -> UpdateDynamics:
    return UpdateDynamics(**{"every_n_steps": 1, "subspaces_every": 2, "figures": False, "strict": True, **options})


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: Classifier(), {"gradient_clip_val": 0.5}),
        (lambda: Classifier(), {"accumulate_grad_batches": 2}),
        (lambda: Classifier(optimizer=torch.optim.LBFGS, lr=0.1, max_iter=3), {}),
        (lambda: Routed(deep(), muon_sgd, lr=0.5, inner_solver="dual_ascent"), {}),
        (lambda: Routed(deep(), muon, lr=0.02), {"precision": "bf16-mixed"}),
        (lambda: Routed(None, sam), {}),
    ],
    ids=["clipped", "accumulated", "lbfgs", "muon_sgd", "muon", "sam"],
)
@pytest.mark.parametrize("every", [1, 3])
def test_training_is_bit_for_bit_the_same(tmp_path, make, options, every) -> None:
    plain, watched = make(), make()
    fit(tmp_path, plain, max_epochs=2, **options)
    fit(tmp_path, watched, dynamics(every_n_steps=every), max_epochs=2, **options)
    assert all(torch.equal(one, other) for one, other in zip(plain.weights, watched.weights, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(plain.buffers(), watched.buffers(), strict=True))
    assert plain.draws == watched.draws


@pytest.mark.parametrize("case", ["plain", "clipped", "accumulated", "lbfgs", "sam"])
def test_scalars_equal_what_the_run_did(tmp_path, case) -> None:
    """Gradients are those at the weights before the step, before clipping, whatever the optimizer does with them."""
    options: dict[str, Any] = {"clipped": {"gradient_clip_val": 0.1}, "accumulated": {"accumulate_grad_batches": 2}}
    module: Recording = {
        "lbfgs": lambda: Recording(optimizer=torch.optim.LBFGS, lr=0.1, max_iter=3),
        "sam": lambda: Routed(None, sam),
    }.get(case, Recording)()
    trainer = fit(tmp_path, module, dynamics(), **options.get(case, {}))
    written = events(trainer)
    assert {tag for tag in written if tag.startswith("update/")} == TAGS
    assert "diagnostics/update_dynamics_seconds" in written
    per_step = 2 if case == "accumulated" else 1
    steps = 6 // per_step
    changes = [module.weights[per_step * (i + 1)] - module.weights[per_step * i] for i in range(steps)]
    for index, change in enumerate(changes):
        gradient = module.gradients[index]
        rate = -float(change @ gradient / gradient.square().sum())
        assert written["update/effective_lr"][index] == (index + 1, pytest.approx(rate, rel=1e-3, abs=1e-6))
        cosine = -float(torch.cosine_similarity(change, gradient, dim=0))
        assert written["update/cosine_to_gradient"][index][1] == pytest.approx(cosine, rel=1e-3, abs=1e-5)
        if index:
            cosine = float(torch.cosine_similarity(change, changes[index - 1], dim=0))
            assert written["update/cosine_to_previous"][index - 1] == (index + 1, pytest.approx(cosine, abs=1e-5))


@pytest.mark.parametrize(
    ("cadence", "options", "steps", "with_previous"),
    [
        ({"every_n_steps": 4}, {}, [1, 4, 8, 12], [4, 8, 12]),
        ({"every_n_steps": 1, "max_overhead": 0.999}, {}, None, None),
        ({"every_n_steps": None, "at_steps": [2, 7]}, {}, [2, 7], [2, 7]),
        ({"every_n_steps": None, "every_n_epochs": 1}, {}, [6, 12], [6, 12]),
        ({"every_n_steps": None, "every_n_epochs": 1}, {"accumulate_grad_batches": 2}, [3, 6], [3, 6]),
        ({"every_n_steps": None, "every_n_epochs": 2}, {"accumulate_grad_batches": 4}, [4], [4]),
    ],
)
def test_the_step_before_a_measured_one_is_known(tmp_path, cadence, options, steps, with_previous) -> None:
    trainer = fit(tmp_path, Classifier(), dynamics(**cadence), max_epochs=2, **options)
    written = events(trainer)
    found = [step for step, _ in written["update/effective_lr"]]
    assert steps is None or found == steps
    assert [step for step, _ in written["update/cosine_to_previous"]] == (with_previous or found[1:])


def test_files(tmp_path) -> None:
    callback = dynamics(figures=True)
    module = Routed(deep(), muon_sgd, lr=0.5)
    trainer = fit(tmp_path, module, callback)
    folder = tmp_path / "run" / "version_0"
    names = ("update_dynamics_by_layer", "update_dynamics_heat_map")
    assert {path.name for path in (folder / "figures").iterdir()} == {f"{n}.{s}" for n in names for s in ("png", "svg")}
    report = json.loads((folder / "update_dynamics.json").read_text())
    last = callback.summary()
    assert last is not None
    assert report["step"] == 6
    assert last.names == tuple(name for name, _ in module.named_parameters())
    assert report["last"]["values"]["effective_lr"] == list(last.values["effective_lr"])
    assert report["history"]["steps"] == [1, 2, 3, 4, 5, 6]
    assert report["history"]["effective_lr"][-1] == pytest.approx(last.values["effective_lr"], rel=1e-6)
    active = report["history"]["budget_active"]
    matrices = ("net.0.weight", "net.3.weight")  # the output layer and the biases have no budget
    shares = {name: sum(row[last.names.index(name)] for row in active) / 6 for name in matrices}
    found = {name: share for name, share in report["budget_active"].items() if share is not None}
    assert found == pytest.approx(shares)
    written = events(trainer)
    assert written["update/budget_active"][-1] == (6, pytest.approx(sum(shares.values()) / 2))
    for name in ("solver_iterations_max", "solver_gap_median", "solver_residual_max", "budget_used_max"):
        assert len(written[f"update/{name}"]) == 6, name


@pytest.mark.parametrize(("stop", "every"), [(1, 1), (1, 7), (1, 2), (2, 5)])
def test_a_resumed_run_measures_the_same(tmp_path, stop, every) -> None:
    """Also where the checkpoint falls between the two steps that a measurement needs."""

    def run(epochs: int, resume: Any = None) -> tuple[UpdateDynamics, Any]:
        callback = dynamics(every_n_steps=every, subspaces_every=2)
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
        data = DataLoader(loader().dataset, batch_size=8)
        return callback, fit(tmp_path, Classifier(net), callback, data=data, max_epochs=epochs, resume=resume)

    whole, _ = run(3)
    _, trainer = run(stop)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"]["UpdateDynamics"]
    assert bool(saved["running"]["changes"]) is ((6 * stop + 1) % every == 0)  # as large as the weights: only if needed
    resumed, _ = run(3, tmp_path / "half.ckpt")
    assert repr(resumed.history.table()) == repr(whole.history.table())
    assert repr(resumed.summary()) == repr(whole.summary())
    assert repr(resumed.state_dict()["running"]) == repr(whole.state_dict()["running"])


def test_manual_optimization_with_two_optimizers(tmp_path) -> None:
    class Adversarial(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            parameters = list(self.parameters())
            return torch.optim.SGD(parameters[4:], lr=0.25), torch.optim.SGD(parameters[:4], lr=0.1)

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.zero_grad()
                self.manual_backward(self.net(batch[0]).square().mean())
                optimizer.step()

    plain, module, callback = Adversarial(), Adversarial(), dynamics(every_n_steps=4)
    fit(tmp_path, plain)
    trainer = fit(tmp_path, module, callback)
    assert all(torch.equal(one, other) for one, other in zip(plain.weights, module.weights, strict=True))
    assert [step for step, _ in events(trainer)["update/effective_lr"]] == [2, 4, 8, 12]
    assert [step for step, _ in events(trainer)["update/cosine_to_previous"]] == [4, 8, 12]
    last = callback.summary()
    assert last is not None
    assert last.names == tuple(name for name, _ in module.named_parameters())
    rates = dict(zip(last.names, last.values["effective_lr"], strict=True))
    assert (rates["net.0.weight"], rates["net.6.weight"]) == pytest.approx((0.1, 0.25), rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_loss_scaling_is_divided_out(tmp_path, fused) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    module = Classifier(nn.Linear(6, 3), torch.optim.SGD, lr=0.1, fused=fused)
    written = events(fit(tmp_path, module, dynamics(), plugins=[plugin]))
    assert [value for _, value in written["update/effective_lr"]] == pytest.approx([0.1] * 6, rel=1e-4)


def test_a_step_that_a_loss_scaler_skips_is_a_gap(tmp_path) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**60))
    callback = dynamics()
    fit(tmp_path, Classifier(nn.Linear(6, 3), torch.optim.SGD), callback, plugins=[plugin])
    assert callback.history.steps == []
    assert not (tmp_path / "run" / "version_0" / "update_dynamics.json").exists()


@pytest.mark.parametrize("case", ["compiled", "bf16-true", "frozen"])
def test_other_ways_to_train(tmp_path, case) -> None:
    module, options = Classifier(), {}
    if case == "compiled":
        module.net = torch.compile(module.net, backend="aot_eager")
    elif case == "frozen":
        module.net[0].weight.requires_grad = False  # type: ignore[index, union-attr]
        module.unused = nn.Linear(2, 2)
    else:
        options["precision"] = case
    callback = dynamics()
    fit(tmp_path, module, callback, **options)
    last = callback.summary()
    assert last is not None
    expected = [name for name, _ in network().named_parameters()]
    assert last.names == tuple(f"net.{name}" for name in expected if case != "frozen" or name != "0.weight")
    assert callback.history.steps == [1, 2, 3, 4, 5, 6]
    assert 0 < last.totals["cosine_to_gradient"] < 1


def test_a_failure_around_the_step_is_a_gap_and_training_goes_on(tmp_path) -> None:
    class Failing(UpdateDynamics):
        def on_train_start(self, trainer, pl_module) -> None:
            super().on_train_start(trainer, pl_module)
            recorder, names = self._recorder, self._recorder.parameters_of  # type: ignore[union-attr]

            def parameters_of(optimizer):
                if trainer.global_step == 2:
                    raise MemoryError("no room for a copy")
                return names(optimizer)

            recorder.parameters_of = parameters_of  # type: ignore[union-attr]

    plain, module = Classifier(), Classifier()
    fit(tmp_path, plain)
    callback = Failing(every_n_steps=1, figures=False)
    with warnings_of("Failing") as messages:
        fit(tmp_path, module, callback)
    assert messages == [
        "Failing: a measurement at step 3 failed and is left out, training continues (MemoryError: no room for a copy)"
    ]
    assert callback.history.steps == [1, 2, 4, 5, 6]
    assert all(torch.equal(one, other) for one, other in zip(plain.weights, module.weights, strict=True))


def test_a_nan_leaves_a_gap(tmp_path) -> None:
    class Poisoned(Classifier):
        def on_after_backward(self) -> None:
            if self.trainer.global_step == 2:
                self.net[4].weight.grad[0, 0] = math.nan  # type: ignore[index, union-attr]

    written = events(fit(tmp_path, Poisoned(), dynamics(subspaces_every=1)))
    assert all(math.isfinite(value) for values in written.values() for _, value in values)
    assert [step for step, _ in written["update/effective_lr"]] == [1, 2]


def test_nothing_of_the_size_of_the_weights_is_kept(tmp_path) -> None:
    class Watching(Classifier):
        references: list[Any] = []
        alive: list[int] = []

        def on_train_batch_start(self, batch, batch_idx) -> None:
            super().on_train_batch_start(batch, batch_idx)
            self.alive.append(sum(reference() is not None for reference in self.references))

    class Looking(UpdateDynamics):
        def measure(self, trainer, pl_module, batch):
            recorder: Any = self._recorder
            for kept in (recorder._changes, recorder._gradients, recorder._previous):
                for of in kept.values():
                    pl_module.references.extend(weakref.ref(tensor) for tensor in of.values())
            return super().measure(trainer, pl_module, batch)

    module = Watching(deep())
    fit(tmp_path, module, Looking(every_n_steps=3, figures=False, strict=True))
    assert len(module.references) == 18
    assert set(module.alive) == {0}


def test_subspaces_can_be_left_out(tmp_path) -> None:
    written = events(fit(tmp_path, Classifier(), dynamics(subspaces=0)))
    assert not {tag for tag in written if "subspace" in tag}
    for options, message in (
        ({"subspaces": -1}, r"0 \(off\) or a number of directions, got -1"),
        ({"subspaces_every": 0}, "at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            UpdateDynamics(**options)


def test_changes_of_another_run_are_not_compared_with(tmp_path) -> None:
    callback = dynamics(every_n_steps=1)
    first = fit(tmp_path, Classifier(), callback)
    assert [step for step, _ in events(first)["update/cosine_to_previous"]] == [2, 3, 4, 5, 6]
    again = UpdateDynamics(every_n_steps=1, figures=False)
    again.load_state_dict(callback.state_dict())  # of step 6, and the next run starts at its first
    second = fit(tmp_path, Classifier(), again)
    assert [step for step, _ in events(second)["update/cosine_to_previous"]] == [2, 3, 4, 5, 6]
