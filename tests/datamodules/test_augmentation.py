import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from datamodules.augmentation import ImageStore

MEAN, STD = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)


def random_images(samples: int, height: int = 6, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (samples, 3, height, width), dtype=torch.uint8, generator=generator)


def normalize(image: torch.Tensor, maximum: int = 255) -> torch.Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (MEAN, STD))
    return ((image.double() / maximum - mean) / std).float()


def augment_one(image: torch.Tensor, crop: int, row: int, column: int, flip: int) -> torch.Tensor:
    height, width = image.shape[1:]
    padded = functional.pad(image, (crop,) * 4)
    window = padded[:, row : row + height, column : column + width]
    return normalize(window.flip(2) if flip else window)


@settings(deadline=None)
@given(st.integers(0, 4), st.booleans(), st.integers(0, 2**31))
def test_a_batch_equals_its_images_one_by_one(crop, flip, seed):
    images = random_images(9)
    store = ImageStore(images, MEAN, STD, random_crop=crop, horizontal_flip=flip)
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(9, (20,), generator=generator)
    parameters = store.draw(20, generator)
    batch = store.gather(indices, parameters)
    rows = [[crop, crop, 0]] * 20 if parameters is None else parameters.tolist()
    expected = [augment_one(images[i], crop, *row) for i, row in zip(indices.tolist(), rows, strict=True)]
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("crop", [0, 3])
def test_without_parameters_images_are_only_normalized(crop):
    images = random_images(5)
    batch = ImageStore(images, MEAN, STD, random_crop=crop).gather(torch.arange(5), None)
    torch.testing.assert_close(batch, torch.stack([normalize(image) for image in images]), rtol=1e-5, atol=1e-5)


def test_pixels_are_scaled_by_their_maximum():
    images = random_images(5) // 16
    batch = ImageStore(images, MEAN, STD, pixel_maximum=16).gather(torch.arange(5), None)
    torch.testing.assert_close(batch, torch.stack([normalize(image, 16) for image in images]), rtol=1e-5, atol=1e-5)


def test_windows_and_flips_are_uniform():
    store = ImageStore(random_images(1), MEAN, STD, random_crop=1, horizontal_flip=True)
    parameters = store.draw(18_000, torch.Generator().manual_seed(0))
    assert parameters is not None
    counts = (parameters @ torch.tensor([6, 2, 1])).bincount(minlength=18)  # each of 3 x 3 x 2 about 1000 times
    assert len(counts) == 18
    assert (counts - 1000).abs().max() < 150  # five standard deviations


def test_the_stored_images_are_not_changed():
    images = random_images(4)
    before = images.clone()
    store = ImageStore(images, MEAN, STD, horizontal_flip=True)
    first = store.gather(torch.arange(4), torch.tensor([[0, 0, 1]] * 4))
    assert torch.equal(store.gather(torch.arange(4), torch.tensor([[0, 0, 1]] * 4)), first)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(2, 3, 4, 4), MEAN, STD), {}, r"uint8 .* got float32 of shape \(2, 3, 4, 4\)"),
        ((torch.zeros(3, 4, 4, dtype=torch.uint8), MEAN, STD), {}, r"got uint8 of shape \(3, 4, 4\)"),
        ((random_images(0), MEAN, STD), {}, r"got uint8 of shape \(0, 3, 6, 7\)"),
        ((random_images(2), MEAN[:2], STD), {}, "3 channels"),
        ((random_images(2), MEAN, (1.0, 0.0, 1.0)), {}, "positive"),
        ((random_images(2), MEAN, STD), {"random_crop": -1}, "at least 0 pixels, got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ImageStore(*arguments, **options)
