import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.callbacks.held_batches import HeldBatches
from steepest.callbacks.sharpness import SharpnessProbe
from steepest.diagnostics.curvature.sharpness import history_table
from steepest.optim.spectral.muon import muon
from tests.callbacks.runs import Classifier, events, fit, loader, warnings_of

ALL = {"count": 2, "trace_probes": 3, "density_probes": 1}


def smooth() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


class Watched(Classifier):
    """Without randomness; keeps every batch."""

    def __init__(self, net: nn.Module | None = None, **options: Any) -> None:
        super().__init__(smooth() if net is None else net, **options)
        self.batches: list[Any] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.batches.append(batch)


def hessian_at(module: Classifier, weights: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    """Gradient and dense Hessian in float64."""
    net = smooth().double()
    nn.utils.vector_to_parameters(weights.double(), net.parameters())
    parameters = list(net.parameters())
    loss = nn.functional.cross_entropy(net(batch[0].double()), batch[1])
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in flat]
    return flat.detach(), torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
@pytest.mark.parametrize(("batch_norm", "batches"), [("batch", 1), ("batch", 2), ("running", 1)])
def test_training_is_bit_for_bit_the_same(tmp_path, matrix, batch_norm, batches) -> None:
    plain, watched = Classifier(), Classifier()
    fit(tmp_path, plain, max_epochs=2)
    probe = SharpnessProbe(
        2, matrix=matrix, batch_norm=batch_norm, figures=False, strict=True, probe_batch=4, probe_batches=batches, **ALL
    )
    trainer = fit(tmp_path, watched, probe, max_epochs=2)
    assert all(torch.equal(one, other) for one, other in zip(plain.weights, watched.weights, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(plain.buffers(), watched.buffers(), strict=True))
    assert plain.draws == watched.draws
    assert all(parameter.grad is not None for parameter in watched.parameters())
    tag = f"sharpness/{'gauss_newton_' if matrix == 'gauss_newton' else ''}{batch_norm}"
    assert [step for step, _ in events(trainer)[tag]] == list(range(2, 13, 2))
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks


@pytest.mark.parametrize("held", ["fixed", "current"])
def test_scalars_are_those_of_the_step_the_run_took(tmp_path, held) -> None:
    module = Watched(lr=0.05)
    probe = SharpnessProbe(2, probe=held, probe_batch=6, tolerance=1e-4, strict=True, figures=False, **ALL)
    trainer = fit(tmp_path, module, probe)
    written = events(trainer)
    assert [step for step, _ in written["sharpness/batch"]] == [2, 4, 6]
    assert {tag for tag in written if tag.startswith("sharpness/")} == {
        "sharpness/threshold",
        "sharpness/products",
        "sharpness/batch",
        *(
            f"sharpness/batch_{name}"
            for name in (
                "2",
                "residual",
                "preconditioned",
                "ratio",
                "directional_ratio",
                "rise",
                "trace",
                "trace_error",
            )
        ),
    }
    values = {tag: dict(points) for tag, points in written.items()}
    squares = torch.zeros(1)
    for step in range(1, 7):
        before, after = module.weights[step - 1], module.weights[step]
        own, _ = hessian_at(module, before, module.batches[step - 1])
        squares = 0.999 * squares + 0.001 * own**2
        if step % 2:
            continue
        batch = module.batches[0 if held == "fixed" else step - 1]
        gradient, hessian = hessian_at(module, before, (batch[0][:6], batch[1][:6]))
        eigenvalues = torch.linalg.eigvalsh(hessian)
        assert values["sharpness/batch"][step] == pytest.approx(float(eigenvalues[-1]), rel=1e-3)
        assert values["sharpness/batch_2"][step] == pytest.approx(float(eigenvalues[-2]), rel=1e-3)
        update = (after - before).double()
        rho = float(-(update @ hessian @ update) / (2 * gradient @ update))
        assert values["sharpness/batch_directional_ratio"][step] == pytest.approx(rho, rel=1e-3, abs=1e-5)
        scale = (0.05 / ((squares / (1 - 0.999**step)).sqrt() + 1e-8) / (1 - 0.9**step)).sqrt()
        preconditioned = torch.linalg.eigvalsh(scale[:, None] * hessian * scale)[-1] / 0.05
        assert values["sharpness/batch_preconditioned"][step] == pytest.approx(float(preconditioned), rel=2e-3)
        threshold = 19 * (2 - 0.05 * 0.01) / 0.05
        assert values["sharpness/threshold"][step] == pytest.approx(threshold)
        assert values["sharpness/batch_ratio"][step] == pytest.approx(float(preconditioned) / threshold, rel=2e-3)


def test_the_rate_is_that_of_the_step_and_not_the_next(tmp_path) -> None:
    class Scheduled(Watched):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (step + 1))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    module = Scheduled(optimizer=torch.optim.SGD, lr=0.1)
    trainer = fit(tmp_path, module, SharpnessProbe(1, figures=False, strict=True))
    written = events(trainer)
    assert written["sharpness/threshold"] == [(step, pytest.approx(20.0 * step)) for step in range(1, 7)]
    for (_, sharpness), (_, seen) in zip(
        written["sharpness/batch"], written["sharpness/batch_preconditioned"], strict=True
    ):
        assert sharpness == pytest.approx(seen)


def test_muon_has_a_directional_ratio_and_no_threshold(tmp_path) -> None:
    class Orthogonal(Watched):
        def configure_optimizers(self) -> Any:
            return muon(self, lr=0.02)

    trainer = fit(tmp_path, Orthogonal(), SharpnessProbe(3, strict=True))
    written = events(trainer)
    assert len(written["sharpness/batch_directional_ratio"]) == 2
    assert "sharpness/threshold" not in written
    report = json.loads((tmp_path / "run" / "version_0" / "sharpness.json").read_text())
    assert report["no_threshold"] == "the step of muon is not linear in the gradient"
    assert report["history"]["threshold"] == [None, None]


def test_files_and_figures(tmp_path) -> None:
    fit(tmp_path, Watched(), SharpnessProbe(2, strict=True, **ALL))
    folder = tmp_path / "run" / "version_0"
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "sharpness.png", "sharpness.svg", "spectrum.png", "spectrum.svg",
    }  # fmt: skip
    report = json.loads((folder / "sharpness.json").read_text())
    assert report["history"]["steps"] == [2, 4, 6]
    assert len(report["history"]["eigenvalues"][0]) == 2
    assert sum(report["last"]["density"]["weights"]) == pytest.approx(1.0)


def test_several_batches_accumulation_and_recomputing(tmp_path) -> None:
    results = []
    for memory in ("retain", "recompute"):
        probe = SharpnessProbe(
            1, probe_batches=2, probe_batch=8, memory=memory, figures=False, tolerance=1e-4, radius=None
        )
        module = Watched(optimizer=torch.optim.SGD)
        trainer = fit(tmp_path / memory, module, probe, accumulate_grad_batches=2)
        results.append(events(trainer)["sharpness/batch"])
        # Steps are taken from the weights of the second micro-batch.
        union = tuple(torch.cat(parts) for parts in zip(*module.batches[:2], strict=True))
        for (step, value), weights in zip(results[-1], module.weights[1::2], strict=True):
            expected = torch.linalg.eigvalsh(hessian_at(module, weights, union)[1])[-1]
            assert value == pytest.approx(float(expected), rel=1e-3), step
    assert results[0] == results[1]


def test_incomplete_batches_are_said(tmp_path) -> None:
    with warnings_of("SharpnessProbe") as messages:
        trainer = fit(tmp_path, Watched(), SharpnessProbe(2, probe_batches=3, figures=False))
    assert messages == ["SharpnessProbe: the 3 probe batches are not complete yet"]
    assert [step for step, _ in events(trainer)["sharpness/batch"]] == [4, 6]


class Stopped(RuntimeError):
    pass


def test_killed_and_resumed_it_writes_the_same(tmp_path) -> None:
    when = -1

    class Dying(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(batch, batch_idx)
            if self.trainer.global_step == when:
                self.trainer.save_checkpoint(tmp_path / "half.ckpt")
                raise Stopped

    def probe() -> SharpnessProbe:
        return SharpnessProbe(1, strict=True, figures=False, batch_norm="running", **ALL)

    class Still(Dying):
        """Without dropout, whose random state a checkpoint does not hold."""

        def __init__(self) -> None:
            torch.manual_seed(0)
            super().__init__(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)))

    whole = probe()
    fit(tmp_path / "whole", Still(), whole, max_epochs=2)
    when = 6
    with pytest.raises(Stopped):
        fit(tmp_path / "killed", Still(), probe(), max_epochs=2)
    when, resumed = -1, probe()
    fit(tmp_path / "resumed", Still(), resumed, max_epochs=2, resume=tmp_path / "half.ckpt")
    assert repr(resumed.history.table()) == repr(whole.history.table())
    assert torch.equal(resumed.held.state_dict()[0][0][0], whole.held.state_dict()[0][0][0])


def test_what_cannot_be_measured_is_one_clear_line(tmp_path) -> None:
    for module, options, expected in (
        (Watched(), {"precision": "bf16-true"}, "weights in torch.bfloat16 are too imprecise for second derivatives: "
         "train with precision bf16-mixed or 32-true"),
        (Watched(nn.Sequential(nn.Linear(6, 5), nn.Hardsigmoid(), nn.Linear(5, 3))), {}, "an operation of the network "
         "has no second derivative in PyTorch (derivative for aten::hardsigmoid_backward is not implemented)"),
    ):  # fmt: skip
        with warnings_of("SharpnessProbe") as messages:
            trainer = fit(tmp_path, module, SharpnessProbe(3), **options)
        assert messages == [f"SharpnessProbe: {expected}"]
        assert trainer.global_step == 6


def test_mixed_precision_and_compiled_networks(tmp_path) -> None:
    found = []
    for name, net, options, probe in (
        ("plain", smooth(), {}, {}),
        ("compiled", torch.compile(smooth(), backend="eager"), {}, {}),
        ("mixed", smooth(), {"precision": "bf16-mixed"}, {}),
        ("coarse", smooth(), {"precision": "bf16-mixed"}, {"autocast": True}),
    ):
        torch.manual_seed(0)
        module = Watched(net, optimizer=torch.optim.SGD, lr=1e-6)  # type: ignore[arg-type]
        reference = smooth()
        torch.manual_seed(1)
        for parameter in reference.parameters():
            nn.init.normal_(parameter, std=0.3)
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(reference.parameters()), module.parameters())
        trainer = fit(tmp_path / name, module, SharpnessProbe(1, strict=True, figures=False, **probe), **options)
        found.append(events(trainer)["sharpness/batch"][0][1])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)
    assert found[3] == pytest.approx(found[0], rel=0.05)
    assert found[3] != found[2]


def test_two_optimizers_by_hand(tmp_path) -> None:
    class Manual(Watched):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            parameters = list(self.parameters())
            return [torch.optim.SGD(parameters[:2], lr=0.1, momentum=0.5), torch.optim.SGD(parameters[2:], lr=0.3)]

        def diagnostic_loss(self, batch: Any) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.zero_grad()
            self.manual_backward(self.diagnostic_loss(batch))
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.step()

    module = Manual()
    trainer = fit(tmp_path, module, SharpnessProbe(4, strict=True, figures=False, tolerance=1e-3))
    values = {tag: dict(points) for tag, points in events(trainer).items()}
    assert list(values["sharpness/batch"]) == [4, 8, 12]
    scale = torch.cat([torch.full((35,), 0.1 / 3.0), torch.full((18,), 0.3 / 2.0)]).double().sqrt()
    for step in (4, 8, 12):
        index = step // 2 - 1
        gradient, hessian = hessian_at(module, module.weights[index], module.batches[0])
        expected = torch.linalg.eigvalsh(scale[:, None] * hessian * scale)[-1]
        assert values["sharpness/batch_ratio"][step] == pytest.approx(float(expected), rel=3e-3)
        update = (module.weights[index + 1] - module.weights[index]).double()
        rho = float(-(update @ hessian @ update) / (2 * gradient @ update))
        assert values["sharpness/batch_directional_ratio"][step] == pytest.approx(rho, rel=1e-3, abs=1e-4)


def test_frozen_parameters_are_left_out(tmp_path) -> None:
    module = Watched(optimizer=torch.optim.SGD)
    module.net[0].requires_grad_(False)  # type: ignore[index]
    trainer = fit(tmp_path, module, SharpnessProbe(6, strict=True, figures=False, tolerance=1e-4))
    _, hessian = hessian_at(module, module.weights[5], module.batches[0])
    expected = float(torch.linalg.eigvalsh(hessian[35:, 35:])[-1])
    assert events(trainer)["sharpness/batch"][0][1] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matrix": "fisher"}, "matrix must be 'hessian' or 'gauss_newton', got 'fisher'"),
        ({"batch_norm": "eval"}, "batch_norm must be"),
        ({"probe": "last"}, "probe must be"),
        ({"memory": "disk"}, "memory must be"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"probe_batch": 0}, "probe_batch must be at least 1, got 0"),
        ({"probe_batches": 0}, "probe_batches must be at least 1, got 0"),
        ({"probe": "current", "probe_batches": 2}, "one batch, got probe_batches=2"),
        ({"tolerance": 0.0}, "above 0, got 0.0 and 0.05"),
        ({"radius": math.nan}, "above 0, got 0.01 and nan"),
        ({"trace_probes": 1}, "0 or at least 2, .* got 1 and 0"),
    ],
)
def test_bad_options_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        SharpnessProbe(**options)


def test_memory_stays_flat(tmp_path) -> None:
    """No tensor is left over from one probe to the next, but for the row of the history."""
    import gc

    counts: list[int] = []
    probe = SharpnessProbe(1, figures=False, strict=True)

    class Counted(Watched):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            gc.collect()
            counts.append(sum(issubclass(type(item), Tensor) for item in gc.get_objects()) - len(probe.history))

        def on_train_end(self) -> None:
            pass

    fit(tmp_path, Counted(), probe, data=loader(12))
    assert max(counts[5:]) - min(counts[5:]) <= 2


def test_held_batches_serve_other_numbers_of_ranks() -> None:
    class Ranks:
        def __init__(self, rank: int, size: int) -> None:
            self.global_rank, self.world_size = rank, size

    class OnCpu:
        device = torch.device("cpu")

    held = HeldBatches(2, 2)
    held.load_state_dict([[torch.tensor([rank]) for rank in range(3)], [torch.tensor([9])] * 3])

    def own(rank: int, size: int) -> list[int]:
        copy = HeldBatches(2, 2)
        copy.load_state_dict(held.state_dict())
        return [int(part) for part in copy.own(Ranks(rank, size), OnCpu())]  # type: ignore[arg-type]

    assert own(0, 1) == [0, 1, 2, 9, 9, 9]
    assert own(1, 2) == [1, 9]
    assert own(4, 5) == [1, 9]


# --- two ranks ------------------------------------------------------------------------------------------------------

TWO_RANKS: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2}


class Reporting(Watched):
    """Writes what each rank saw, because the processes are gone after `fit`."""

    def __init__(self, folder: Any, probe: SharpnessProbe, net: nn.Module | None = None) -> None:
        super().__init__(net)
        self.folder, self.probe = folder, probe

    def on_train_end(self) -> None:
        super().on_train_end()
        report = {
            "history": history_table(self.probe.history),
            "weights": [vector.tolist() for vector in self.weights],
            "held": [[part[0].tolist(), part[1].tolist()] for part in self.probe.held.state_dict()[0]],
        }
        (self.folder / f"rank{self.trainer.global_rank}.json").write_text(json.dumps(report))


@pytest.mark.ddp
def test_two_ranks_measure_their_union(tmp_path) -> None:
    probe = SharpnessProbe(2, tolerance=1e-4, strict=True, **ALL)
    module = Reporting(tmp_path, probe)
    fit(tmp_path, module, probe, **TWO_RANKS)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["history"]["steps"] == [2]
    held = first["held"]
    assert held[0] != held[1]
    union = tuple(torch.cat([torch.tensor(part[index]) for part in held]) for index in range(2))
    _, hessian = hessian_at(module, torch.tensor(first["weights"][1]), union)
    expected = torch.linalg.eigvalsh(hessian).flip(0)[:2].tolist()
    assert first["history"]["eigenvalues"][0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.ddp
def test_two_ranks_with_batch_norm_and_a_failure_on_one_do_not_hang(tmp_path) -> None:
    class Uneven(Reporting):
        def diagnostic_loss(self, batch: Any) -> Tensor:
            if self.trainer.global_rank == 1 and self.trainer.global_step == 1:
                raise ArithmeticError("only here")
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    probe = SharpnessProbe(1, figures=False)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    with warnings_of("SharpnessProbe"):
        fit(tmp_path, Uneven(tmp_path, probe, net), probe, **TWO_RANKS)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["history"]["steps"] == [2, 3]
