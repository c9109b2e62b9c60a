import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steepest.datamodules.loader import TensorLoader
from steepest.datamodules.token_windows import IGNORED, EvaluationWindows, TrainingWindows


def stream(length: int) -> Tensor:
    """A token is its place."""
    return torch.arange(length).to(torch.uint16)


def training(length: int, block: int, batch: int, **options) -> TensorLoader:
    return TensorLoader(TrainingWindows(stream(length), block), None, batch, shuffle=True, **options)


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(1, 20), st.integers(0, 5))
def test_an_epoch_of_training_has_each_target_at_most_once(length, block, seed):
    if length <= block:
        return
    inputs, targets = map(torch.cat, zip(*training(length, block, 3, seed=seed), strict=True))
    assert torch.equal(inputs + 1, targets)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape[1] == block
    flat = targets.flatten()
    assert len(flat.unique()) == len(flat)
    assert 1 <= int(flat.min()) <= int(flat.max()) <= length - 1
    assert len(flat) > length - 2 * block - 1  # nearly all of them


def test_every_place_of_the_stream_is_reached_and_starts_differ_between_epochs():
    loader = training(50, 7, 2, drop_last=True)
    epochs = [torch.cat([targets.flatten() for _, targets in loader]) for _ in range(60)]
    assert set(torch.cat(epochs).tolist()) == set(range(1, 50))
    assert len({int(epoch.min()) for epoch in epochs}) > 5


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(1, 20), st.integers(1, 4))
def test_evaluation_has_each_target_exactly_once(length, block, batch):
    if length <= block:
        return
    loader = TensorLoader(EvaluationWindows(stream(length), block), None, batch)
    inputs, targets = map(torch.cat, zip(*loader, strict=True))
    wanted = targets != IGNORED
    assert torch.equal(targets[wanted], inputs[wanted] + 1)
    assert sorted(targets[wanted].tolist()) == list(range(1, length))


@settings(deadline=None)
@given(st.integers(150, 300), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_processes_together_see_what_one_process_sees(length, block, batch, world_size, seed):
    shards = [
        list(training(length, block, batch, drop_last=True, seed=seed, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    whole = list(training(length, block, batch * world_size, drop_last=True, seed=seed))
    for (inputs, targets), *parts in zip(whole, *shards, strict=True):
        assert torch.equal(torch.cat([part[0] for part in parts]), inputs)
        assert torch.equal(torch.cat([part[1] for part in parts]), targets)


@pytest.mark.parametrize("position", [0, 1, 5])
def test_a_saved_position_continues_bit_for_bit(position):
    reference = training(200, 8, 4, seed=3)
    epochs = [[batch[0].tolist() for batch in reference] for _ in range(3)]
    broken = training(200, 8, 4, seed=3)
    list(broken)
    iterator = iter(broken)
    seen = [next(iterator)[0].tolist() for _ in range(position)]
    resumed = training(200, 8, 4, seed=3)
    resumed.load_state_dict(broken.state_dict())
    assert seen + [batch[0].tolist() for batch in resumed] == epochs[1]
    assert [batch[0].tolist() for batch in resumed] == epochs[2]


def test_a_text_that_is_too_short_is_refused():
    for windows in (TrainingWindows, EvaluationWindows):
        with pytest.raises(ValueError, match="block_size 9 needs 10 tokens, the validation text has only 9"):
            windows(stream(9), 9, what="the validation text")
        assert len(windows(stream(10), 9)) == 1
