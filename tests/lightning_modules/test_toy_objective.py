"""A run on an objective with a known answer arrives at it, whatever the optimizer."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steepest.command_line.trainer import Trainer
from steepest.lightning_modules import ToyObjective
from steepest.lightning_modules.noise_loader import NoiseLoader
from steepest.lightning_modules.objectives import ElongatedBowl, Quadratic, Rosenbrock
from steepest.optim.schedules import linear
from tests.optim.contract.cases import ENTRIES, Entry


def trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
            **options,
        }
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_optimizer_converges_on_the_quadratic(tmp_path, entry: Entry) -> None:
    # They need a rate that falls as well; these have a schedule of their own, or a line search.
    own = entry.name.startswith("schedule_free") or "lbfgs" in entry.name
    # Rules whose steps have a size of their own get far enough in 250 of them only at a higher rate.
    for multiple in (1, 5):
        objective = Quadratic(torch.logspace(-0.3, 0.6, 64).tolist(), rotation_seed=0, rows=8)
        before = float(objective().detach())
        model = ToyObjective(
            objective,
            steps_per_epoch=250,
            optimizer=partial(entry.make, lr=multiple * entry.case.lr),  # type: ignore[arg-type]
            schedule=None if own else linear,  # type: ignore[arg-type]
        )
        run = trainer(tmp_path)
        run.fit(model)
        assert run.global_step == 250
        optimizer: Any = run.optimizers[0]
        if hasattr(optimizer, "eval"):
            optimizer.eval()
        if (after := float(objective().detach())) < 0.05 * before:
            break
    assert after < 0.05 * before
    metrics = {key: float(value) for key, value in run.callback_metrics.items()}
    assert {"val/gap", "val/distance", "val/loss", "train/epoch_gap", "train/epoch_distance"} <= set(metrics)
    assert metrics["val/gap"] == pytest.approx(metrics["val/loss"])


def test_metrics_tell_gap_and_distance(tmp_path) -> None:
    model = ToyObjective(Rosenbrock(start=[3.0, 9.0]))
    run = trainer(tmp_path)
    for evaluate, stage in ((run.validate, "val"), (run.test, "test")):
        evaluate(model, verbose=False)
        assert float(run.callback_metrics[f"{stage}/gap"]) == pytest.approx(4.0)
        assert float(run.callback_metrics[f"{stage}/distance"]) == pytest.approx((2**2 + 8**2) ** 0.5)


def test_noise_is_the_batch_and_changes_nothing_but_the_gradient() -> None:
    model = ToyObjective(Quadratic([1.0, 10.0]), noise=[0.5, 2.0], batch_size=8)
    loader = model.train_dataloader()
    batch = next(iter(loader))
    assert batch.shape == (8, 2)
    noisy, clean = model.diagnostic_loss(batch), model.objective()
    assert torch.equal(noisy, clean)
    difference = (
        torch.autograd.grad(noisy, model.objective.weight)[0] - torch.autograd.grad(clean, model.objective.weight)[0]
    )
    torch.testing.assert_close(difference, batch.mean(0, keepdim=True))
    # The covariance that was asked for.
    many = torch.cat(list(NoiseLoader(model.noise_scale, 100, 200)))
    torch.testing.assert_close(many.T.cov(), torch.diag(torch.tensor([0.25, 4.0])), rtol=0.05, atol=0.03)
    assert not bool(next(iter(ToyObjective(ElongatedBowl()).train_dataloader())).any())


def test_the_loader_is_a_function_of_seed_epoch_batch_and_sample() -> None:
    scale = torch.ones(3)

    def all_of(**options: Any) -> torch.Tensor:
        return torch.stack(list(NoiseLoader(scale, **{"batch_size": 4, "batches": 5, **options})))

    whole = all_of()
    assert whole.shape == (5, 4, 3)
    assert torch.equal(all_of(), whole)
    assert len(whole.flatten().unique()) == whole.numel()
    for changed in ({"seed": 1}, {"progress": lambda: (1, 0)}):
        assert not bool(torch.isin(all_of(**changed), whole).any())
    halves = [all_of(batch_size=2, world_size=2, rank=rank) for rank in (0, 1)]
    assert torch.equal(torch.cat(halves, 1), whole)
    resumed = NoiseLoader(scale, 4, 5, progress=lambda: (0, 3))
    assert torch.equal(torch.stack(list(resumed)), whole[3:])
    assert len(list(resumed)) == 5  # later passes are whole


def test_a_users_own_objective(tmp_path) -> None:
    class Line(ElongatedBowl):
        def value(self, points: torch.Tensor) -> torch.Tensor:
            return points.square().sum(-1)

    model = ToyObjective(Line(), optimizer=lambda module: torch.optim.SGD(module.parameters(), 0.5))  # type: ignore
    trainer(tmp_path).fit(model)
    assert float(model.objective().detach()) < 1e-12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": -1.0}, "noise must be a number of at least 0"),
        ({"noise": [1.0]}, "one for each of 2 weights"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        ToyObjective(ElongatedBowl(), **options)


def test_only_the_weights_are_trained_and_saved() -> None:
    model = ToyObjective(Quadratic([1.0, 2.0], rotation_seed=1))
    assert [name for name, _ in model.named_parameters()] == ["objective.weight"]
    assert list(model.state_dict()) == ["objective.weight"]
    assert isinstance(model.objective, nn.Module)
