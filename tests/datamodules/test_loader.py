from collections.abc import Iterable
from itertools import chain

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from steepest.datamodules.augmentation import ImageStore
from steepest.datamodules.loader import TensorLoader


def loader(samples: int, batch_size: int, **options) -> TensorLoader:
    places = torch.arange(samples)
    return TensorLoader(places.float().view(-1, 1), places, batch_size, **options)


def places(batches) -> list[list[int]]:
    return [targets.tolist() for _, targets in batches]


def flat(lists: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def equal(left: list, right: list) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) for x, y in zip(left, right, strict=True) for a, b in zip(x, y, strict=True)
    )


def ranks(samples: int, batch_size: int, world_size: int, **options) -> list[list[list[int]]]:
    return [
        places(loader(samples, batch_size, rank=rank, world_size=world_size, **options)) for rank in range(world_size)
    ]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_processes_together_see_what_one_process_sees(samples, batch_size, world_size, seed):
    assume(batch_size * world_size <= samples)
    shards = ranks(samples, batch_size, world_size, shuffle=True, drop_last=True, seed=seed)
    whole = places(loader(samples, batch_size * world_size, shuffle=True, drop_last=True, seed=seed))
    assert [flat(shares) for shares in zip(*shards, strict=True)] == whole
    assert all(len(batch) == batch_size for shard in shards for batch in shard)
    assert len(set(flat(whole))) == samples // (batch_size * world_size) * batch_size * world_size


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(2, 8), st.integers(1, 6), st.booleans())
def test_evaluation_sees_each_sample_once_in_equally_many_batches(samples, batch_size, world_size, shuffle):
    assume(samples >= world_size)
    shards = ranks(samples, batch_size, world_size, shuffle=shuffle)
    expected = len(loader(samples, batch_size, world_size=world_size))
    assert {len(shard) for shard in shards} == {expected}
    assert expected == -(-samples // (batch_size * world_size))
    assert sorted(flat(map(flat, shards))) == list(range(samples))
    assert all(1 <= len(batch) <= batch_size for shard in shards for batch in shard)


def test_one_process_keeps_the_order_and_only_the_last_batch_is_short():
    assert places(loader(7, 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert places(loader(7, 3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]


def test_a_short_last_global_batch_borrows_from_the_one_before():
    assert ranks(9, 4, 2) == [[[0, 1, 2], [7]], [[3, 4, 5, 6], [8]]]


def test_inputs_and_targets_stay_together():
    for inputs, targets in loader(10, 3, shuffle=True):
        assert torch.equal(inputs.flatten().long(), targets)


def test_without_targets_it_yields_inputs():
    assert [batch.tolist() for batch in TensorLoader(torch.arange(3), None, 2)] == [[0, 1], [2]]


def test_each_epoch_and_each_seed_has_its_own_order():
    first, same, other = (loader(50, 50, shuffle=True, seed=seed) for seed in (0, 0, 1))
    orders = [places(first)[0], places(first)[0], places(other)[0], places(other)[0]]
    assert len({tuple(order) for order in orders}) == 4
    assert places(same)[0] == orders[0]
    assert places(same)[0] == orders[1]


def test_global_randomness_is_neither_used_nor_changed():
    state = torch.get_rng_state()
    first = places(loader(20, 5, shuffle=True))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert places(loader(20, 5, shuffle=True)) == first


def augmented(rank: int = 0, world_size: int = 1, batch_size: int = 4, progress=None) -> TensorLoader:
    images = torch.randint(0, 256, (26, 2, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    store = ImageStore(images, (0.4, 0.5), (0.2, 0.3), random_crop=2, horizontal_flip=True)
    return TensorLoader(
        store,
        torch.arange(26),
        batch_size,
        shuffle=True,
        drop_last=True,
        seed=5,
        rank=rank,
        world_size=world_size,
        progress=progress,
    )


def test_augmentation_does_not_depend_on_the_number_of_processes():
    whole = list(augmented(batch_size=8))
    shards = [list(augmented(rank, 2)) for rank in range(2)]
    for (images, _), *parts in zip(whole, *shards, strict=True):
        assert torch.equal(torch.cat([part[0] for part in parts]), images)


@pytest.mark.parametrize("position", range(7))
def test_a_saved_position_continues_bit_for_bit(position):
    reference = augmented()
    epochs = [list(reference) for _ in range(3)]
    interrupted = augmented()
    list(interrupted)
    iterator = iter(interrupted)
    seen = [next(iterator) for _ in range(position)]
    state = interrupted.state_dict()
    if position:
        assert state == {"epoch": 1, "batches_done": position}
    resumed = augmented()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert equal(seen + list(resumed), epochs[1])
    assert equal(list(resumed), epochs[2])


def test_a_pass_broken_off_is_not_continued_by_the_next_one():
    reference = loader(20, 4, shuffle=True)
    epochs = [places(reference), places(reference)]
    broken = loader(20, 4, shuffle=True)
    next(iter(broken))
    assert places(broken) == epochs[1]


def test_progress_is_asked_at_the_first_batch_and_only_the_first_pass_starts_inside():
    reference = augmented()
    epochs = [list(reference) for _ in range(4)]
    progress = (0, 0)
    resumed = augmented(progress=lambda: progress)
    iterator = iter(resumed)
    progress = (2, 3)
    assert equal(list(iterator), epochs[2][3:])
    assert equal(list(resumed), epochs[2])  # an extra pass, as a callback makes one
    progress = (3, 0)
    assert equal(list(resumed), epochs[3])


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (10, {"batch_size": 0}, r"batch_size must be at least 1, got 0"),
        (10, {"batch_size": -3}, r"batch_size must be at least 1, got -3"),
        (10, {"batch_size": 6, "world_size": 2, "drop_last": True}, r"batch of 12 samples .* data set of 10"),
        (10, {"batch_size": 2, "seed": -1}, r"seed must be at least 0, got -1"),
        (10, {"batch_size": 2, "rank": 2, "world_size": 2}, r"rank must be in \[0, 2\).* got 2"),
        (3, {"batch_size": 1, "world_size": 2}, r"3 samples cannot give each of 2 processes"),
        (1, {"batch_size": 4, "world_size": 2}, r"1 samples cannot give each of 2 processes"),
        (0, {"batch_size": 4}, r"0 samples"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(samples, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        loader(samples, **options)
    assert "\n" not in str(raised.value)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="3 and 2"):
        TensorLoader(torch.zeros(3), torch.zeros(2), 1)


def test_a_batch_shares_no_memory_with_the_store():
    store: Tensor = torch.zeros(4, 1)
    next(iter(TensorLoader(store, None, 2))).fill_(1)
    assert store.sum() == 0
