from collections import namedtuple

import pytest
import torch

from steepest.diagnostics.common.batches import batch_size, first_samples

Pair = namedtuple("Pair", ["image", "label"])


def test_every_tensor_of_the_batch_is_cut() -> None:
    batch = {"pair": Pair(torch.arange(8), torch.arange(16).reshape(8, 2)), "list": [torch.zeros(8), "text"]}
    cut = first_samples(batch, 3)
    assert isinstance(cut["pair"], Pair)
    assert cut["pair"].image.tolist() == [0, 1, 2]
    assert cut["pair"].label.shape == (3, 2)
    assert cut["list"][0].shape == (3,)
    assert cut["list"][1] == "text"


def test_tensors_of_another_length_stay_whole() -> None:
    inputs, classes = first_samples((torch.zeros(8, 2), torch.zeros(10)), 4)
    assert inputs.shape == (4, 2)
    assert classes.shape == (10,)


@pytest.mark.parametrize("batch", [torch.zeros(4), torch.tensor(1.0), "text", None, ["a", 3]])
def test_small_and_foreign_batches_are_passed_on(batch) -> None:
    assert first_samples(batch, 4) is batch


def test_size_is_that_of_the_first_tensor() -> None:
    assert batch_size({"a": "x", "b": (torch.zeros(5, 2), torch.zeros(3))}) == 5
    assert batch_size("text") is None


def test_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        first_samples(torch.zeros(3), 0)
