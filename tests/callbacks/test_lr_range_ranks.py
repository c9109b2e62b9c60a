import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from steepest.callbacks import LRRangeTest
from tests.callbacks.runs import Classifier, fit, loader

pytestmark = pytest.mark.ddp

TWO_RANKS: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2}


class Reporting(Classifier):
    """Writes what each rank saw at the end, because the processes are gone after `fit`; halves its batches."""

    def __init__(self, folder: Any, test: LRRangeTest | None, halves: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.folder, self.test, self.halves = folder, test, halves

    def training_step(self, batch, batch_idx):
        if self.halves:
            share = slice(self.trainer.global_rank, None, self.trainer.world_size)
            batch = batch[0][share], batch[1][share]
        return super().training_step(batch, batch_idx)

    def on_train_end(self) -> None:
        super().on_train_end()
        test = self.test
        report = {
            "weights": [vector.tolist() for vector in self.weights],
            "draw": self.draws[-1],
            "curves": [vars(curve) for curve in test.curves] if test is not None else [],
            "trials": [vars(trial) for trial in test.trials] if test is not None else [],
            "rate": self.trainer.optimizers[0].param_groups[0]["lr"],
        }
        (self.folder / f"rank{self.trainer.global_rank}.json").write_text(json.dumps(report))


def run(folder, test: LRRangeTest | None, options: dict[str, Any], **module: Any) -> list[dict[str, Any]]:
    folder.mkdir()
    fit(folder, Reporting(folder, test, **module), *([test] if test is not None else []), **options)
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


@pytest.mark.parametrize("mode", ["range", "envelope"])
def test_both_ranks_find_the_same_and_train_on_as_without(tmp_path, mode) -> None:
    """With BatchNorm, whose buffers DDP sends around, with dropout, and more steps than an epoch has."""
    test = LRRangeTest(mode=mode, steps=14, values=3 if mode == "envelope" else None, seeds=[0, 1])
    first, second = run(tmp_path / "watched", test, TWO_RANKS)
    plain = run(tmp_path / "plain", None, TWO_RANKS)
    assert first == second
    assert first["weights"] == plain[0]["weights"]
    assert [first["draw"], second["draw"]] == [report["draw"] for report in plain]
    results = first["curves"] if mode == "range" else first["trials"]
    assert len(results) == (2 if mode == "range" else 6)
    assert all(math.isfinite(loss) for result in results for loss in result["losses"])
    assert (tmp_path / "watched/run/version_0/figures/lr_range.png").exists()


def test_two_ranks_equal_the_union_of_their_batches_and_apply_alike(tmp_path) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def found(name: str, options: dict[str, Any]) -> list[dict[str, Any]]:
        test = LRRangeTest(steps=20, factors=(1e-2, 1e3), apply=True, rule="max_stable")
        module = {"net": net(), "optimizer": torch.optim.SGD, "halves": True}
        return run(tmp_path / name, test, {"accumulate_grad_batches": 2, **options}, **module)

    first, second = found("pair", {"use_distributed_sampler": False, **TWO_RANKS})
    (single,) = found("single", {})
    assert first["curves"] == second["curves"]
    assert first["rate"] == second["rate"] == pytest.approx(single["rate"], rel=1e-4)
    one, both = single["curves"][0], first["curves"][0]
    assert len(one["losses"]) == len(both["losses"])
    assert both["losses"][:12] == pytest.approx(one["losses"][:12], rel=1e-4)


def test_the_shard_of_a_rank_is_the_one_of_the_fit(tmp_path) -> None:
    """The sampler that Lightning puts into a plain loader is in the test's loader as well."""
    seen = LRRangeTest(steps=3, factors=(1e-9, 2e-9))
    torch.manual_seed(0)
    net = nn.Linear(6, 3)
    everything = [nn.functional.cross_entropy(net(one), other).item() for one, other in loader(3, 16)]
    options = {"net": net, "optimizer": torch.optim.SGD}
    first, second = run(tmp_path / "pair", seen, {**TWO_RANKS, "max_steps": 1}, **options)
    assert first["curves"][0]["losses"] == second["curves"][0]["losses"]
    mean = sum(first["curves"][0]["losses"]) / 3
    assert mean == pytest.approx(sum(everything) / 3, rel=1e-4)
