"""A landscape on two ranks: the same on both, and the one that a single process draws of the same data."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steepest.callbacks.loss_landscape import LossLandscape
from tests.callbacks.runs import Classifier, fit, warnings_of

pytestmark = pytest.mark.ddp

TWO_RANKS: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}


class Sharing(Classifier):
    """Both ranks load the same batch of eight; each takes its half; writes what each rank drew."""

    def __init__(self, folder: Path, fails_on: int | None, middle: nn.Module) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Linear(6, 8), middle, nn.Tanh(), nn.Linear(8, 3)), torch.optim.SGD, lr=0.05)
        self.folder, self.fails_on = folder, fails_on
        self.evaluated = 0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        rank, size = self.trainer.global_rank, self.trainer.world_size
        return [part[rank * 8 // size : (rank + 1) * 8 // size] for part in batch]

    def diagnostic_loss(self, batch: Any) -> torch.Tensor:
        self.evaluated += 1
        if self.evaluated > 3 and self.trainer.global_rank == self.fails_on:
            raise ArithmeticError("only here")
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def on_fit_end(self) -> None:
        callback = next(own for own in self.trainer.callbacks if isinstance(own, LossLandscape))  # type: ignore[attr-defined]
        landscape = callback.summary()
        report = {
            "weights": [vector.tolist() for vector in self.weights],
            "evaluated": self.evaluated,
            "steps": callback.trajectory.steps,
            "losses": None if landscape is None else landscape.surface.losses.tolist(),
            "path": None if landscape is None else landscape.path,
            "fingerprint": None if landscape is None else landscape.surface.fingerprint,
        }
        (self.folder / f"rank{self.trainer.global_rank}.json").write_text(json.dumps(report))


def run(
    folder: Path, directions: Any, fails_on: int | None = None, middle: nn.Module | None = None, **options: Any
) -> list[dict[str, Any]]:
    folder.mkdir(parents=True)
    callback = LossLandscape(
        2, directions=directions, resolution=5, probe_batch=8, strict=fails_on is None, figures=False, max_snapshots=4
    )
    with warnings_of("LossLandscape"):
        fit(folder, Sharing(folder, fails_on, middle or nn.Identity()), callback, max_epochs=2, **options)
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


@pytest.mark.parametrize("directions", ["trajectory", "random", "eigenvectors"])
def test_two_ranks_draw_what_one_draws(tmp_path, directions) -> None:
    first, second = run(tmp_path / "pair", directions, **TWO_RANKS)
    (alone,) = run(tmp_path / "alone", directions)
    for key in ("weights", "steps", "losses", "path", "fingerprint"):
        assert first[key] == second[key]
    # Neither did the whole: 25 points of 2 x 2 batches, beside what the directions cost.
    assert second["evaluated"] < 4 * 25
    assert first["steps"] == alone["steps"]
    for row, expected in zip(first["losses"], alone["losses"], strict=True):
        assert row == pytest.approx(expected, rel=2e-3)
    assert (tmp_path / "pair" / "run" / "version_0" / "loss_landscape.npz").is_file()


def test_with_batch_normalization_nothing_hangs(tmp_path) -> None:
    first, second = run(tmp_path / "pair", "eigenvectors", middle=nn.BatchNorm1d(8), **TWO_RANKS)
    assert first["losses"] == second["losses"]


def test_a_file_that_cannot_be_written_leaves_no_rank_waiting(tmp_path, monkeypatch) -> None:
    def full(surface: Any, path: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("steepest.callbacks.landscape_run.save_surface", full)
    reports = run(tmp_path / "pair", "random", fails_on=7, **TWO_RANKS)
    assert [report["losses"] for report in reports] == [None, None]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_on_one_rank_leaves_it_out_on_all(tmp_path, rank) -> None:
    reports = run(tmp_path / "pair", "random", rank, **TWO_RANKS)
    assert [report["losses"] for report in reports] == [None, None]
    assert reports[0]["weights"] == reports[1]["weights"]
