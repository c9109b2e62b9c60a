import json
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from steepest.callbacks.base import Diagnostic
from steepest.callbacks.gradient_flow import GradientFlowMonitor
from steepest.callbacks.learning_rate import LearningRateTracker
from steepest.callbacks.probe import probe
from tests.callbacks.runs import Classifier, events, fit, warnings_of

pytestmark = pytest.mark.ddp

TWO_RANKS: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2}


class Reporting(Classifier):
    """Writes what each rank saw at the end, because the processes are gone after `fit`."""

    def __init__(self, folder: Any, callback: Any, **options: Any) -> None:
        super().__init__(**options)
        self.folder, self.callback = folder, callback

    def on_train_end(self) -> None:
        super().on_train_end()
        history = self.callback.history if isinstance(self.callback, GradientFlowMonitor) else None
        report = {
            "weights": [vector.sum().item() for vector in self.weights],
            "draw": self.draws[-1],
            "norms": history["gradient_norms"].tolist() if history is not None else None,
            "updates": history["update_ratios"].tolist() if history is not None else None,
            "dead": self.callback.dead_units if history is not None else None,
            "steps": getattr(self.callback, "steps", None),
        }
        (self.folder / f"rank{self.trainer.global_rank}.json").write_text(json.dumps(report))


def reports(folder) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


class Uneven(Diagnostic):
    """Fails on rank one at the second step only; the collective after the local work must not hang."""

    name = "uneven"

    def __init__(self) -> None:
        super().__init__(every_n_steps=1, max_overhead=0.9)
        self.steps: list[int] = []

    def measure(self, trainer, pl_module, batch) -> dict[str, float]:
        with self.together(trainer):
            if trainer.global_rank == 1 and trainer.global_step == 2:
                raise ArithmeticError("only here")
            with probe(trainer, pl_module, batch) as loss, torch.no_grad():
                value = loss()
        self.steps.append(trainer.global_step)
        rank = torch.tensor([float(trainer.global_rank)])
        assert self.reduce_max(trainer, rank).item() == 1.0
        assert self.reduce_mean(trainer, rank).item() == 0.5
        assert rank.item() == trainer.global_rank
        return {"uneven/loss": self.reduce_mean(trainer, value).item()}


def test_both_ranks_measure_the_same_and_nothing_hangs(tmp_path) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    callback = GradientFlowMonitor(every_n_steps=1, ratio_warning=1e9, strict=True)
    module = Reporting(folder, callback)
    fit(tmp_path, module, callback, LearningRateTracker(), **TWO_RANKS)
    first, second = reports(folder)
    for key in ("weights", "norms", "updates", "dead"):
        assert first[key] == second[key]
    assert len(first["norms"]) == 3
    written = events(tmp_path / "run" / "version_0")
    assert [step for step, _ in written["grad/total_norm"]] == [1, 2, 3]
    assert [step for step, _ in written["lr/AdamW"]] == [1]
    last = [sum(norm**2 for norm in row) ** 0.5 for row in first["norms"]]
    assert [value for _, value in written["grad/total_norm"]] == pytest.approx(last, rel=1e-5)
    assert (tmp_path / "run" / "version_0" / "gradient_flow.json").exists()

    plain = tmp_path / "plain"
    plain.mkdir()
    fit(tmp_path, Reporting(plain, None), **TWO_RANKS)
    for watched, unwatched in zip(reports(folder), reports(plain), strict=True):
        assert watched["weights"] == unwatched["weights"]
        assert watched["draw"] == unwatched["draw"]


def test_the_gradient_is_that_of_both_halves_of_the_batch(tmp_path) -> None:
    """Without dropout and batch normalization two ranks compute the gradient of the union of their batches."""

    class Sharing(Reporting):
        def training_step(self, batch, batch_idx):
            share = slice(self.trainer.global_rank, None, self.trainer.world_size)
            return super().training_step((batch[0][share], batch[1][share]), batch_idx)

    def run(name: str, **options: Any) -> list[list[float]]:
        folder = tmp_path / name
        folder.mkdir()
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        callback = GradientFlowMonitor(every_n_steps=1, ratio_warning=1e9, figures=False)
        fit(tmp_path, Sharing(folder, callback, net=net, optimizer=torch.optim.SGD), callback, **options)
        return json.loads((folder / "rank0.json").read_text())["norms"]

    pair = run("pair", use_distributed_sampler=False, **TWO_RANKS)
    single = run("single")
    assert len(pair) == len(single) == 6
    for one, other in zip(pair, single, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_a_failure_on_one_rank_is_a_gap_on_all(tmp_path) -> None:
    callback = Uneven()
    with warnings_of("Uneven"):
        fit(tmp_path, Reporting(tmp_path, callback), callback, **TWO_RANKS)
    first, second = reports(tmp_path)
    assert first["steps"] == second["steps"]
    assert 2 not in first["steps"]
    assert first["steps"][0] == 1
    assert [step for step, _ in events(tmp_path / "run" / "version_0")["uneven/loss"]] == first["steps"]


def test_a_unit_alive_on_any_rank_is_alive(tmp_path) -> None:
    class OneSided(Reporting):
        def diagnostic_loss(self, batch):
            sign = 1.0 if self.trainer.global_rank == 0 else -1.0
            return self.net(torch.full((4, 6), sign)).sum()

    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -1.0, 0.0, 1.0])[:, None].expand(4, 6))  # type: ignore[union-attr, operator]
    callback = GradientFlowMonitor(None, at_steps=[1], ratio_warning=1e9, figures=False)
    fit(tmp_path, OneSided(tmp_path, callback, net=net, optimizer=torch.optim.SGD, lr=1e-9), callback, **TWO_RANKS)
    assert [report["dead"] for report in reports(tmp_path)] == [{"net.1": 0.25}] * 2


def test_plain_ddp_is_not_refused() -> None:
    class Distributed:
        strategy = DDPStrategy()
        loggers: tuple = ()

    GradientFlowMonitor().setup(Distributed(), Classifier(), "fit")  # type: ignore[arg-type]
