"""The recorded path is the path, and recording it leaves no trace."""

from typing import Any

import numpy
import pytest
import torch
from torch import nn

from steepest.callbacks import ObjectiveTrajectory
from steepest.lightning_modules import ImageClassifier, ToyObjective
from steepest.lightning_modules.objectives import ElongatedBowl, Quadratic, Rosenbrock
from steepest.optim.classical.torch_optimizers import momentum
from tests.callbacks.runs import fit_in_folder


def bowl(**options: Any) -> ToyObjective:
    return ToyObjective(ElongatedBowl(), steps_per_epoch=10, optimizer=momentum, **options)  # type: ignore[arg-type]


def test_the_path_is_that_of_a_plain_loop(tmp_path) -> None:
    fit_in_folder(tmp_path, bowl(), ObjectiveTrajectory())
    weight = nn.Parameter(torch.tensor([5.0, 4.0]))
    optimizer = torch.optim.SGD([weight], lr=0.05, momentum=0.9)
    expected = [weight.tolist()]
    for _ in range(20):
        optimizer.zero_grad()
        (weight[0] ** 2 + 10 * weight[1] ** 2).backward()
        optimizer.step()
        expected.append(weight.tolist())
    found = numpy.load(tmp_path / "trajectory.npz")
    assert found["steps"].tolist() == list(range(21))
    numpy.testing.assert_allclose(found["weights"], expected, rtol=1e-5, atol=1e-6)
    numpy.testing.assert_allclose(found["losses"], [x * x + 10 * y * y for x, y in expected], rtol=1e-4, atol=1e-6)
    numpy.testing.assert_allclose(found["distances"], numpy.linalg.norm(expected, axis=1), rtol=1e-5, atol=1e-6)
    for suffix in ("png", "svg"):
        assert (tmp_path / f"figures/trajectory.{suffix}").stat().st_size > 10_000
    assert not list(tmp_path.glob(".*"))


def test_training_does_not_notice(tmp_path) -> None:
    watched, alone = (ToyObjective(Rosenbrock(), noise=0.1, steps_per_epoch=20) for _ in range(2))
    fit_in_folder(tmp_path, watched, ObjectiveTrajectory(max_rows=7, figures=False))
    fit_in_folder(tmp_path, alone)
    assert torch.equal(watched.objective.weight, alone.objective.weight)


def test_micro_batches_are_no_steps(tmp_path) -> None:
    recorder = ObjectiveTrajectory(figures=False)
    fit_in_folder(tmp_path, bowl(), recorder, accumulate_grad_batches=4)
    assert recorder.trajectory.steps == list(range(7))


def test_a_failed_run_leaves_its_path(tmp_path) -> None:
    class Failing(ToyObjective):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            if batch_idx == 5:
                raise RuntimeError("stopped here")
            return super().training_step(batch, batch_idx)

    model = Failing(Quadratic([1.0, 2.0, 3.0]), steps_per_epoch=10, optimizer=momentum)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="stopped here"):
        fit_in_folder(tmp_path, model, ObjectiveTrajectory())
    assert numpy.load(tmp_path / "trajectory.npz")["weights"].shape == (6, 3)


def test_other_models_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"such as ToyObjective; ImageClassifier has none"):
        fit_in_folder(tmp_path, ImageClassifier(nn.Linear(2, 2)), ObjectiveTrajectory())
