import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor, nn

from steepest.callbacks.landscape_run import measure_landscape
from steepest.callbacks.landscapes import Landscape, LandscapeOptions
from steepest.callbacks.loss_landscape import LossLandscape
from steepest.callbacks.probe import MeasurementUnavailableError
from steepest.diagnostics.landscape.landscape import load_surface
from tests.callbacks.runs import Classifier, events, fit, loader, network, warnings_of

SMALL: dict[str, Any] = {"resolution": 5, "probe_batch": 8, "strict": True}
BATCHES = [[part for part in batch] for batch in loader()][:2]


class Still(Classifier):
    """Without dropout, whose random state a checkpoint does not hold."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)), **options)


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
@pytest.mark.parametrize("directions", ["trajectory", "random", "eigenvectors"])
def test_training_is_bit_for_bit_the_same(tmp_path, directions, batch_norm) -> None:
    plain, watched = Classifier(), Classifier()
    fit(tmp_path, plain, max_epochs=2)
    callback = LossLandscape(
        2, directions=directions, batch_norm=batch_norm, draw_every_n_epochs=1, figures=False, **SMALL
    )
    trainer = fit(tmp_path, watched, callback, max_epochs=2)
    assert all(torch.equal(one, other) for one, other in zip(plain.weights, watched.weights, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(plain.buffers(), watched.buffers(), strict=True))
    assert plain.draws == watched.draws
    assert all(parameter.grad is not None for parameter in watched.parameters())
    assert [module.training for module in plain.modules()] == [module.training for module in watched.modules()]
    written = events(trainer)
    for name in ("loss", "lowest", "highest"):
        assert [step for step, _ in written[f"landscape/{batch_norm}_{name}"]] == [6, 12, 12]
    assert ("landscape/explained" in written) == (directions == "trajectory")


def direct(module: Classifier, weights: Tensor, batch_norm: str, batches: list[Any]) -> float:
    """The loss of other weights by a copy of the network, without anything of ours."""
    net = network()
    net.load_state_dict(module.net.state_dict())
    nn.utils.vector_to_parameters(weights, net.parameters())
    net.eval()
    net[1].train(batch_norm == "batch")
    with torch.no_grad():
        losses = [float(nn.functional.cross_entropy(net(inputs), targets)) for inputs, targets in batches]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
def test_values_and_snapshots_are_those_of_the_run(tmp_path, batch_norm) -> None:
    module = Classifier()
    callback = LossLandscape(3, batch_norm=batch_norm, **SMALL)
    trainer = fit(tmp_path, module, callback, max_epochs=2)
    landscape = callback.summary()
    assert landscape is not None
    folder = tmp_path / "run" / "version_0"
    assert callback.trajectory.steps == [0, 3, 6, 9, 12]
    center = nn.utils.parameters_to_vector(module.parameters()).detach()
    directions = [torch.cat([part.reshape(-1) for part in direction]) for direction in landscape.plane.directions]
    for step, place in landscape.path:
        stored = callback.trajectory.load(step)
        assert torch.equal(torch.cat([part.reshape(-1) for part in stored.values()]), module.weights[step])
        expected = [float((module.weights[step] - center) @ direction) for direction in directions]
        assert place == pytest.approx(expected, abs=1e-5)
    assert landscape.path[-1] == (12, (0.0, 0.0))
    matrix = torch.stack([module.weights[step] - center for step in (0, 3, 6, 9, 12)]).double()
    squares = torch.linalg.svdvals(matrix).square()
    assert landscape.plane.explained == pytest.approx((squares[:2] / squares.sum()).tolist(), rel=1e-5)

    surface = landscape.surface
    assert surface.center == pytest.approx(direct(module, center, batch_norm, BATCHES), rel=1e-6)
    for place in random.Random(0).sample([*numpy.ndindex(surface.losses.shape)], 6):
        shifts = [float(axis[index]) for axis, index in zip(surface.axes, place, strict=True)]
        moved = center + shifts[0] * directions[0] + shifts[1] * directions[1]
        assert surface.losses[place] == pytest.approx(direct(module, moved, batch_norm, BATCHES), rel=1e-4)
    # The whole trajectory is on the picture.
    for axis, places in zip(surface.axes, zip(*(place for _, place in landscape.path), strict=True), strict=True):
        assert axis[0] < min(places)
        assert max(places) < axis[-1]

    report = json.loads((folder / "loss_landscape.json").read_text())
    assert report["batch_norm"] == batch_norm
    assert report["trajectory"]["steps"] == callback.trajectory.steps
    assert report["losses"] == surface.losses.tolist()
    numpy.testing.assert_array_equal(load_surface(folder / "loss_landscape.npz").losses, surface.losses)
    written = events(trainer)
    assert written[f"landscape/{batch_norm}_loss"] == [(12, pytest.approx(surface.center))]
    assert {path.name for path in (folder / "figures").iterdir()} == {
        *(f"loss_landscape_{kind}.{suffix}" for kind in ("contour", "surface") for suffix in ("png", "svg")),
        "loss_landscape.gif",
    }
    with Image.open(folder / "figures" / "loss_landscape.gif") as image:
        assert image.n_frames == 5  # type: ignore[attr-defined]


def test_the_center_is_a_direct_evaluation_to_the_bit() -> None:
    module = Classifier()
    fit(None, module, max_epochs=1)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    landscape = measure_landscape(trainer, module, BATCHES[:1], LandscapeOptions(resolution=3))
    assert landscape.surface.center == direct(
        module, nn.utils.parameters_to_vector(module.parameters()).detach(), "batch", BATCHES[:1]
    )
    assert landscape.samples == 8


class Stopped(RuntimeError):
    pass


@pytest.mark.parametrize("in_files", [True, False])
def test_killed_and_resumed_it_draws_the_same(tmp_path, in_files) -> None:
    when = -1

    class Dying(Still):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(batch, batch_idx)
            if self.trainer.global_step == when:
                self.trainer.save_checkpoint(tmp_path / "half.ckpt")
                raise Stopped

    def callback() -> LossLandscape:
        return LossLandscape(1, max_snapshots=6, figures=False, **SMALL)

    def folder(name: str) -> Path | None:
        return tmp_path / name if in_files else None

    whole = callback()
    fit(folder("whole"), Dying(), whole, max_epochs=3)
    when = 6
    with pytest.raises(Stopped):
        fit(folder("killed"), Dying(), callback(), max_epochs=3)
    when, resumed = -1, callback()
    fit(folder("resumed"), Dying(), resumed, max_epochs=3, resume=tmp_path / "half.ckpt")
    assert resumed.trajectory.steps == whole.trajectory.steps == [0, 4, 8, 12, 16]
    one, other = whole.summary(), resumed.summary()
    assert isinstance(one, Landscape)
    assert isinstance(other, Landscape)
    assert one.path == other.path
    numpy.testing.assert_array_equal(one.surface.losses, other.surface.losses)
    assert one.surface.fingerprint == other.surface.fingerprint


def test_what_cannot_be_drawn_is_one_clear_line(tmp_path) -> None:
    short = {"resolution": 3, "probe_batch": 4, "figures": False}
    for callback, options, expected in (
        (LossLandscape(probe_batches=9, **short), {}, "the 9 probe batches are not complete yet"),
        (LossLandscape(10, **short), {"max_steps": 2}, "a trajectory of 1 snapshots that spreads in 1 directions "
         "has no 2 principal ones: record more snapshots"),
    ):  # fmt: skip
        with warnings_of("LossLandscape") as messages:
            trainer = fit(tmp_path, Classifier(), callback, **options)
        assert messages == [f"LossLandscape: {expected}"]
        assert trainer.global_step in (2, 6)


def test_a_plane_that_hides_most_of_the_way_says_so(tmp_path) -> None:
    class Wandering(Classifier):
        """Jumps to anywhere, which no plane shows."""

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            with torch.no_grad():
                generator = torch.Generator().manual_seed(self.trainer.global_step)
                for parameter in self.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))

    with warnings_of("LossLandscape") as messages:
        fit(tmp_path, Wandering(), LossLandscape(1, figures=False, **SMALL))
    assert len(messages) == 1
    assert "of the trajectory's variance, less than 90 %" in messages[0]


def test_wrong_options() -> None:
    for options, expected in (
        ({"resolution": 0}, "resolution must be at least 3 points along an axis, got 0"),
        ({"directions": "up"}, "directions must be one of random, trajectory, checkpoints, eigenvectors, got 'up'"),
        ({"directions": "checkpoints"}, "steepest landscape --checkpoints"),
        ({"batch_norm": "none"}, "batch_norm must be one of batch, running, got 'none'"),
        ({"dimensions": 3}, "dimensions must be 1 or 2, got 3"),
        ({"reach": 0.0}, r"reach must be above 0, got 0\.0"),
        ({"max_snapshots": 2}, "a limit of at least 4"),
        ({"every_n_steps": 0}, "counted from 1, got every_n_steps=0"),
        ({"probe_batch": 0}, "probe_batch must be at least 1, got 0"),
        ({"draw_every_n_epochs": 0}, "draw_every_n_epochs must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=expected):
            LossLandscape(**options)


def test_ranks_do_not_share_a_grid_that_needs_all_of_them_at_each_point() -> None:
    # DistributedDataParallel takes SyncBatchNorm on GPUs only; it must be refused before anything is evaluated.
    trainer: Any = SimpleNamespace(world_size=2)
    with pytest.raises(MeasurementUnavailableError, match="SyncBatchNorm"):
        measure_landscape(trainer, Classifier(nn.SyncBatchNorm(6)), BATCHES, LandscapeOptions())
