"""What every data set of the folder promises: sizes, shapes, order, and going on after a restart.

A data set that needs files says where small ones are: its own test, `test_<module>.py` beside this file, has a function
`small_files(folder, monkeypatch)` that writes them and returns the options to find them.
"""

import inspect
from importlib import import_module, util
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from steepest import datamodules
from steepest.datamodules.base import ImageDataModule
from steepest.datamodules.text import TextDataModule

SMALL = {ImageDataModule: {"batch_size": 4}, TextDataModule: {"batch_size": 2, "block_size": 8}}

every_data_set = pytest.mark.parametrize("name", datamodules.__all__)


@pytest.fixture
def make(name, tmp_path, monkeypatch):
    """A function that makes the data set of this name, small and set up, each time anew."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    data_class = getattr(datamodules, name)
    options: dict[str, Any] = next((own for base, own in SMALL.items() if issubclass(data_class, base)), {})
    test = f"tests.datamodules.test_{data_class.__module__.rpartition('.')[2]}"
    if util.find_spec(test) is not None and hasattr(own := import_module(test), "small_files"):
        options = {**options, **own.small_files(tmp_path, monkeypatch)}

    def made(**others: Any) -> lightning.LightningDataModule:
        data = data_class(**{**options, **others})
        data.prepare_data()
        data.setup("fit")
        data.setup("test")
        return data

    return made


def tensors(batch: Any) -> list[torch.Tensor]:
    return [batch] if isinstance(batch, torch.Tensor) else [each for part in batch for each in tensors(part)]


def equal(some: list[Any], others: list[Any]) -> bool:
    """Whether two lists of batches are the same to the bit."""
    pairs = [
        (one, other)
        for left, right in zip(some, others, strict=True)
        for one, other in zip(tensors(left), tensors(right), strict=True)
    ]
    return all(torch.equal(one, other) for one, other in pairs)


@every_data_set
def test_an_epoch_has_the_length_it_says_and_the_shapes_that_networks_are_made_for(name, make):
    data = make()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batches = list(loader)
        assert 0 < len(batches) == len(loader)
        for inputs, targets in batches:
            assert len(inputs) == len(targets) > 0
            if hasattr(data, "input_shape"):
                assert inputs.shape[1:] == data.input_shape
                assert inputs.is_floating_point()
                assert inputs.isfinite().all()
                assert targets.dtype == torch.int64
                assert 0 <= int(targets.min()) <= int(targets.max()) < data.num_classes
            if hasattr(data, "vocabulary_size"):
                assert inputs.shape == targets.shape == (len(inputs), data.block_size)
                assert inputs.dtype == targets.dtype == torch.int64
                assert 0 <= int(inputs.min()) <= int(inputs.max()) < data.vocabulary_size
                assert int(targets.max()) < data.vocabulary_size


@every_data_set
def test_batches_follow_from_the_seed_alone(name, make, monkeypatch):
    before = torch.get_rng_state()
    first, second = list(make().train_dataloader()), list(make().train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(first, second)
    loader = make().train_dataloader()
    assert not equal(list(loader), list(loader))  # each epoch has an order of its own
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    assert not equal(list(make().train_dataloader()), first)
    assert equal(list(make().val_dataloader()), list(make().val_dataloader()))


@every_data_set
def test_a_loader_goes_on_where_its_state_was_saved(name, make):
    whole = list(make().train_dataloader())
    loader = make().train_dataloader()
    passing = iter(loader)
    for _ in range(2):
        next(passing)
    state = loader.state_dict()
    again = make().train_dataloader()
    again.load_state_dict(state)
    assert equal(list(again), whole[2:])


@every_data_set
def test_the_help_describes_every_option(name):
    found = getattr(datamodules, name)
    text = inspect.getdoc(found) or ""
    assert len(text.splitlines()[0]) > 20
    for option in inspect.signature(found).parameters if "__init__" in vars(found) else ():
        assert f"\n    {option}: " in text or f"\n    **{option}: " in text


def test_small_files_are_those_of_the_data_sets_that_need_them():
    """So that the hook is used: a function that no data set asks for would be forgotten."""
    tests = {path.stem for path in Path(__file__).parent.glob("test_*.py") if "def small_files(" in path.read_text()}
    modules = {f"test_{getattr(datamodules, name).__module__.rpartition('.')[2]}" for name in datamodules.__all__}
    assert tests - {Path(__file__).stem} <= modules
