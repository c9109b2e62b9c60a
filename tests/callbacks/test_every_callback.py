"""What every callback of the folder promises: it runs, leaves the training alone, and goes on with a resumed run."""

import inspect
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from torch import Tensor, nn

from steepest import callbacks
from steepest.lightning_modules.objectives.many_dimensions import Rosenbrock
from steepest.lightning_modules.toy_objective import ToyObjective
from tests.callbacks.runs import Classifier, fit, fit_in_folder

every_callback = pytest.mark.parametrize("name", callbacks.__all__)

EPOCHS = (1, 2)  # of the first run, and of the one that resumes it


def toy() -> LightningModule:
    return ToyObjective(Rosenbrock(), steps_per_epoch=6)


TASKS = (Classifier, toy)  # the second is for callbacks that need a known minimum and say so


def small(name: str) -> Any:
    """The callback; it measures every other step where it can choose, and raises what goes wrong."""
    found = getattr(callbacks, name)
    wanted = {"every_n_steps": 2, "figures": False, "strict": True, "resolution": 5, "steps": 20}
    parameters = inspect.signature(found).parameters
    return found(**{option: value for option, value in wanted.items() if option in parameters})


def random_state() -> list[Any]:
    return [torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(), random.getstate()]


def trained(folder: Path, task: Any, name: str | None) -> tuple[list[Tensor], list[Any]]:
    """Weights and random numbers at the ends of a run and of another that resumes it, with a callback or none."""
    weights, states = [], []
    for part, epochs in enumerate(EPOCHS):
        module = task()
        own = [] if name is None else [small(name)]
        # Lightning refuses a bar or a checkpoint where none is wanted.
        options = {"enable_progress_bar": any(isinstance(one, ProgressBar) for one in own)}
        options["enable_checkpointing"] = any(isinstance(one, Checkpoint) for one in own)
        torch.manual_seed(5)
        numpy.random.seed(5)
        random.seed(5)
        resume = folder / "half.ckpt" if part else None
        train = fit if task is Classifier else fit_in_folder
        trainer = train(folder, module, *own, max_epochs=epochs, resume=resume, **options)
        weights.append(nn.utils.parameters_to_vector(module.parameters()).detach().clone())
        states.append(random_state())
        trainer.save_checkpoint(folder / "half.ckpt")
    return weights, states


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> dict[Any, tuple[list[Tensor], list[Any]]]:
    """What each task comes to without a callback."""
    return {task: trained(tmp_path_factory.mktemp("untouched"), task, None) for task in TASKS}


@every_callback
def test_it_needs_no_arguments_and_describes_them(name):
    found = getattr(callbacks, name)
    found()
    text = inspect.getdoc(found) or ""
    assert len(text.splitlines()[0]) > 20
    for option in inspect.signature(found).parameters:
        assert f"\n    {option}: " in text


@every_callback
def test_a_run_is_the_same_to_the_bit_with_it_also_when_resumed(tmp_path, untouched, name):
    task: Any = Classifier
    try:
        weights, states = trained(tmp_path, task, name)
    except ValueError as refusal:
        if "needs a model with a known objective" not in str(refusal):
            raise
        weights, states = trained(tmp_path, task := toy, name)
    expected, expected_states = untouched[task]
    same = all(torch.equal(one, other) for one, other in zip(weights, expected, strict=True))
    if getattr(getattr(callbacks, name), "changes_training", False):
        assert not same, f"{name} does not change the training: leave changes_training out"
        return
    assert same, f"{name} changes the weights: if it is meant to, say so by changes_training = True"
    assert states == expected_states, f"{name} draws random numbers that are not its own"


@every_callback
def test_its_state_can_be_kept_and_taken_up(tmp_path, name):
    callback = small(name)
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    small(name).load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
