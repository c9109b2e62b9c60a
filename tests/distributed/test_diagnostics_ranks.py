"""Spectral norms, update dynamics and the noise scale on two ranks: the same on both, and as in one process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.callbacks.noise_scale import GradientNoiseScale
from steepest.callbacks.spectral_norm import SpectralNormTracker
from steepest.callbacks.update_dynamics import UpdateDynamics
from steepest.diagnostics.noise_scale.noise_scale import noise_sample
from tests.callbacks.runs import Classifier, events, fit, loader, warnings_of

pytestmark = pytest.mark.ddp

TWO_RANKS: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}


def network(*, normalized: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4) if normalized else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 80),
        nn.Linear(80, 90),
        nn.Linear(90, 3),
    )


class Sharing(Classifier):
    """Both ranks load the same batch of eight; rank zero trains on the first half, rank one on the second."""

    def __init__(self, folder: Path, *callbacks: Any, normalized: bool = False, lengths: tuple = (4, 4)) -> None:
        super().__init__(network(normalized=normalized), torch.optim.SGD, lr=0.05)
        self.folder, self.callbacks, self.lengths = folder, callbacks, lengths
        self.parts: list[list[Tensor]] = []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer.world_size == 1:
            return batch
        rank = self.trainer.global_rank
        return [tensor[4 * rank : 4 * rank + self.lengths[rank]] for tensor in batch]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self.trainer.world_size == 1:
            quarters = zip(*(tensor.split(2) for tensor in batch), strict=True)
            self.parts.append([self.gradient(*quarter) for quarter in quarters])

    def gradient(self, inputs: Tensor, targets: Tensor) -> Tensor:
        weights = {name: p.detach().double().requires_grad_() for name, p in self.net.named_parameters()}
        loss = nn.functional.cross_entropy(torch.func.functional_call(self.net, weights, (inputs.double(),)), targets)
        return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(weights.values()))])

    def on_train_end(self) -> None:
        super().on_train_end()
        report = {
            "weights": [vector.tolist() for vector in self.weights],
            "draw": self.draws[-1],
            "histories": [repr(callback.history.table()) for callback in self.callbacks],
            "summaries": [repr(callback.summary()) for callback in self.callbacks],
        }
        (self.folder / f"rank{self.trainer.global_rank}.json").write_text(json.dumps(report))


def reports(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def run(folder: Path, *callbacks: Any, normalized: bool = False, lengths: tuple = (4, 4), **options: Any) -> Sharing:
    folder.mkdir(parents=True)
    module = Sharing(folder, *callbacks, normalized=normalized, lengths=lengths)
    fit(folder, module, *callbacks, **options)
    return module


def expected(parts: list[Tensor], size: int):
    gradients = torch.stack(parts)
    return noise_sample(
        gradients.square().sum(1).tolist(), float(gradients.mean(0).square().sum()), [size] * len(parts)
    )


@pytest.mark.parametrize("source", ["auto", "probe"])
def test_parts_of_both_ranks_count(tmp_path, source) -> None:
    """Ranks' own gradients are two parts of four samples, probes four parts of two."""
    callback = GradientNoiseScale(every_n_steps=1, source=source, splits=2, strict=True)
    run(tmp_path / "pair", callback, **TWO_RANKS)
    whole = run(tmp_path / "single")
    samples = []
    for quarters in whole.parts:
        halves = [(quarters[0] + quarters[1]) / 2, (quarters[2] + quarters[3]) / 2]
        samples.append(expected(halves, 4) if source == "auto" else expected(quarters, 2))
    prefix = "noise/" if source == "auto" else "noise/batch_"
    written = events(tmp_path / "pair" / "run" / "version_0")
    found = [value for _, value in written[f"{prefix}half_difference"]]
    assert found == pytest.approx([sample.half_difference for sample in samples], rel=1e-4)
    assert written[f"{prefix}trace"][0][1] == pytest.approx(samples[0].trace, rel=1e-4)
    assert written[f"{prefix}gradient_square"][0][1] == pytest.approx(samples[0].gradient_square, rel=1e-3)
    first, second = reports(tmp_path / "pair")
    assert first["histories"] == second["histories"]
    assert first["weights"] == second["weights"]
    assert (tmp_path / "pair" / "run" / "version_0" / "figures" / "noise_scale.png").exists()


def test_ranks_and_micro_batches_are_all_parts(tmp_path) -> None:
    callback = GradientNoiseScale(every_n_steps=1, strict=True, figures=False)
    run(tmp_path / "pair", callback, accumulate_grad_batches=2, **TWO_RANKS)
    first, second = reports(tmp_path / "pair")
    assert first["histories"] == second["histories"]
    report = json.loads((tmp_path / "pair" / "run" / "version_0" / "noise_scale.json").read_text())
    assert report["history"]["steps"] == [1, 2, 3]
    assert (report["history"]["batch_size"], report["history"]["part_size"]) == ([16] * 3, [4] * 3)
    # At the first step the weights are known.
    module = Sharing(tmp_path)
    batches = [batch for batch, _ in zip(loader(), range(2), strict=False)]
    parts = [module.gradient(*(tensor[half] for tensor in b)) for b in batches for half in (slice(4), slice(4, 8))]
    assert report["history"]["half_difference"][0] == pytest.approx(expected(parts, 4).half_difference, rel=1e-4)


def test_ranks_of_different_batch_sizes(tmp_path) -> None:
    callback = GradientNoiseScale(at_steps=[1], every_n_steps=None, strict=True, figures=False)
    run(tmp_path / "pair", callback, lengths=(4, 2), **TWO_RANKS)
    report = json.loads((tmp_path / "pair" / "run" / "version_0" / "noise_scale.json").read_text())
    assert report["history"]["batch_size"] == [6]
    assert report["history"]["part_size"] == [pytest.approx(2 / (1 / 4 + 1 / 2))]
    assert reports(tmp_path / "pair")[0]["weights"] == reports(tmp_path / "pair")[1]["weights"]


def test_spectral_norms_are_the_same_on_both_ranks_and_on_one(tmp_path) -> None:
    def callback() -> SpectralNormTracker:
        return SpectralNormTracker(every_n_steps=1, exact_every=3, strict=True)

    run(tmp_path / "pair", callback(), **TWO_RANKS)
    pair = tmp_path / "pair"
    run(tmp_path / "single", callback())
    ours, theirs = (events(tmp_path / name / "run" / "version_0") for name in ("pair", "single"))
    tags = {tag for tag in theirs if tag.startswith("spectral/")}
    assert tags == {tag for tag in ours if tag.startswith("spectral/")}
    assert {"spectral/operator_norm_max", "spectral/update_norm_max", "spectral/drift_max"} <= tags
    for tag in tags:
        values, others = ([value for _, value in of[tag]] for of in (ours, theirs))
        assert values == pytest.approx(others, rel=2e-3, abs=1e-4), tag
    first, second = reports(pair)
    assert first["weights"] == second["weights"]
    assert (pair / "run" / "version_0" / "figures" / "spectral_heat_map.png").exists()


def test_update_dynamics_are_the_same_on_both_ranks_and_on_one(tmp_path) -> None:
    def callback(figures: bool) -> UpdateDynamics:
        return UpdateDynamics(every_n_steps=1, subspaces_every=2, figures=figures, strict=True)

    run(tmp_path / "pair", callback(True), **TWO_RANKS)
    run(tmp_path / "single", callback(False))
    ours, theirs = (events(tmp_path / name / "run" / "version_0") for name in ("pair", "single"))
    tags = {tag for tag in theirs if tag.startswith("update/")}
    assert tags == {tag for tag in ours if tag.startswith("update/")}
    assert {"update/effective_lr_median", "update/cosine_to_previous", "update/subspace_drift_from_start_max"} <= tags
    for tag in tags:
        values, others = ([value for _, value in of[tag]] for of in (ours, theirs))
        assert values == pytest.approx(others, rel=5e-3, abs=1e-3), tag
    assert [value for _, value in ours["update/effective_lr"]] == pytest.approx([0.05] * 6, rel=1e-3)
    first, second = reports(tmp_path / "pair")
    for key in ("histories", "summaries", "weights"):
        assert first[key] == second[key]
    assert (tmp_path / "pair" / "run" / "version_0" / "figures" / "update_dynamics_heat_map.png").exists()


def test_all_see_the_same_on_every_rank_and_training_does_not_notice(tmp_path) -> None:
    """With batch normalization, whose buffers make forward passes of one rank alone hang."""
    callbacks = [
        GradientNoiseScale(every_n_steps=1, source="probe", splits=2, batch_norm="running", strict=True, figures=False),
        SpectralNormTracker(every_n_steps=2, strict=True, figures=False),
        UpdateDynamics(every_n_steps=3, strict=True, figures=False),
    ]
    run(tmp_path / "watched", *callbacks, normalized=True, gradient_clip_val=0.1, **TWO_RANKS)
    run(tmp_path / "plain", normalized=True, gradient_clip_val=0.1, **TWO_RANKS)
    first, second = reports(tmp_path / "watched")
    assert first["histories"] == second["histories"]
    assert first["summaries"] == second["summaries"]
    for watched, plain in zip((first, second), reports(tmp_path / "plain"), strict=True):
        assert watched["weights"] == plain["weights"]
        assert watched["draw"] == plain["draw"]


def test_the_ranks_own_gradients_cost_the_training_nothing(tmp_path) -> None:
    callback = GradientNoiseScale(every_n_steps=1, source="training", strict=True, figures=False)
    run(tmp_path / "watched", callback, normalized=True, gradient_clip_val=0.1, **TWO_RANKS)
    run(tmp_path / "plain", normalized=True, gradient_clip_val=0.1, **TWO_RANKS)
    for watched, plain in zip(reports(tmp_path / "watched"), reports(tmp_path / "plain"), strict=True):
        assert watched["weights"] == plain["weights"]


def test_a_batch_too_small_on_one_rank_is_a_gap_on_both(tmp_path) -> None:
    callback = GradientNoiseScale(every_n_steps=1, source="probe", splits=3, figures=False)
    with warnings_of("GradientNoiseScale"):
        run(tmp_path / "pair", callback, lengths=(4, 2), **TWO_RANKS)
    first, second = reports(tmp_path / "pair")
    assert first["histories"] == second["histories"]
    assert not {tag for tag in events(tmp_path / "pair" / "run" / "version_0") if tag.startswith("noise/")}


def test_two_ranks_resume_with_the_same_numbers(tmp_path) -> None:
    def callbacks() -> list[Any]:
        return [
            GradientNoiseScale(every_n_steps=1, figures=False, strict=True),
            SpectralNormTracker(every_n_steps=2, exact_every=3, figures=False, strict=True),
            UpdateDynamics(every_n_steps=7, subspaces_every=1, figures=False, strict=True),
        ]

    class Saving(Sharing):
        def on_train_end(self) -> None:
            super().on_train_end()
            self.trainer.save_checkpoint(self.folder / "half.ckpt")

    run(tmp_path / "whole", *callbacks(), max_epochs=2, **TWO_RANKS)
    (tmp_path / "half").mkdir()
    first = callbacks()
    fit(tmp_path / "half", Saving(tmp_path / "half", *first), *first, max_epochs=1, **TWO_RANKS)
    run(tmp_path / "resumed", *callbacks(), max_epochs=2, resume=tmp_path / "half" / "half.ckpt", **TWO_RANKS)
    for resumed, whole in zip(reports(tmp_path / "resumed"), reports(tmp_path / "whole"), strict=True):
        assert resumed["histories"] == whole["histories"]
        assert resumed["summaries"] == whole["summaries"]
        assert resumed["weights"][-1] == whole["weights"][-1]
