import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from steepest.datamodules.augmentation import ImageStore

MEAN, STD = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)


def random_images(samples: int, height: int = 6, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (samples, 3, height, width), dtype=torch.uint8, generator=generator)


def normalize(image: torch.Tensor, maximum: int = 255) -> torch.Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (MEAN, STD))
    return ((image.double() / maximum - mean) / std).float()


def augment_one(
    image: torch.Tensor,
    crop: int,
    row: int,
    column: int,
    flip: int,
    *center: int,
    padding: str = "zero",
    cutout: int = 0,
) -> torch.Tensor:
    height, width = image.shape[1:]
    padded = functional.pad(image.float(), (crop,) * 4, "constant" if padding == "zero" else "reflect").to(torch.uint8)
    window = padded[:, row : row + height, column : column + width]
    result = normalize(window.flip(2) if flip else window)
    if cutout:
        top, left = (max(place - cutout // 2, 0) for place in center)
        bottom, right = (max(place - cutout // 2 + cutout, 0) for place in center)
        result[:, top:bottom, left:right] = 0
    return result


@settings(deadline=None)
@given(st.integers(0, 4), st.sampled_from(["zero", "reflect"]), st.booleans(), st.integers(0, 9), st.integers(0, 2**31))
def test_a_batch_equals_its_images_one_by_one(crop, padding, flip, cutout, seed):
    images = random_images(9)
    store = ImageStore(images, MEAN, STD, random_crop=crop, crop_padding=padding, horizontal_flip=flip, cutout=cutout)
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(9, (20,), generator=generator)
    parameters = store.draw(20, generator)
    batch = store.gather(indices, parameters)
    rows = [[crop, crop, 0]] * 20 if parameters is None else parameters.tolist()
    expected = [
        augment_one(images[i], crop, *row, padding=padding, cutout=cutout)
        for i, row in zip(indices.tolist(), rows, strict=True)
    ]
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


def test_alternating_flips_turn_all_images_each_epoch():
    images = random_images(1000)
    plain = ImageStore(images, MEAN, STD).gather(torch.arange(1000), None)
    store = ImageStore(images, MEAN, STD, horizontal_flip="alternating", seed=1)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))

    def flipped(store: ImageStore, epoch: int) -> torch.Tensor:
        """Return which images are mirrored in an epoch, by their number."""
        parameters = store.draw(1000, torch.Generator().manual_seed(epoch), epoch)
        batch = store.gather(order, parameters)[order.argsort()]
        result = (batch == plain.flip(3)).flatten(1).all(1)
        assert torch.equal(batch, torch.where(result.view(-1, 1, 1, 1), plain.flip(3), plain))
        return result

    first = flipped(store, 0)
    assert 430 < first.sum() < 570  # 500 +- four standard deviations
    for epoch in range(1, 5):
        assert torch.equal(flipped(store, epoch), ~first if epoch % 2 else first)
    other = ImageStore(images, MEAN, STD, horizontal_flip="alternating", seed=2)
    assert 430 < (flipped(other, 0) ^ first).sum() < 570


def test_the_centers_of_the_squares_are_uniform():
    store = ImageStore(random_images(1), MEAN, STD, cutout=2)
    parameters = store.draw(42_000, torch.Generator().manual_seed(0))
    assert parameters is not None
    assert parameters[:, :3].count_nonzero() == 0
    counts = (parameters[:, 3:] @ torch.tensor([7, 1])).bincount(minlength=42)  # each of 6 x 7 about 1000 times
    assert len(counts) == 42
    assert (counts - 1000).abs().max() < 160  # five standard deviations


def test_other_options_do_not_change_what_is_drawn_before_them():
    plain, cut = (ImageStore(random_images(1), MEAN, STD, random_crop=2, cutout=size) for size in (0, 3))
    first, second = (store.draw(50, torch.Generator().manual_seed(0)) for store in (plain, cut))
    assert first is not None
    assert second is not None
    assert torch.equal(first, second[:, :3])


def test_the_stored_images_are_not_changed():
    images = random_images(4)
    before = images.clone()
    store = ImageStore(images, MEAN, STD, horizontal_flip=True, cutout=3)
    first = store.gather(torch.arange(4), torch.tensor([[0, 0, 1, 2, 2]] * 4))
    assert torch.equal(store.gather(torch.arange(4), torch.tensor([[0, 0, 1, 2, 2]] * 4)), first)
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
        ((random_images(2), MEAN, STD), {"cutout": -1}, "cutout must be at least 0 pixels, got -1"),
        ((random_images(2), MEAN, STD), {"crop_padding": "mirror"}, "zero or reflect, got 'mirror'"),
        (
            (random_images(2), MEAN, STD),
            {"crop_padding": "reflect", "random_crop": 6},
            "random_crop must be below 6 pixels to reflect, got 6",
        ),
        ((random_images(2), MEAN, STD), {"horizontal_flip": "always"}, "true, false or alternating, got 'always'"),
    ],
)
def test_bad_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ImageStore(*arguments, **options)


def test_a_batch_equals_torchvision_image_by_image():
    from torchvision.transforms.v2 import functional as vision

    images = random_images(9)
    store = ImageStore(images, MEAN, STD, random_crop=3, horizontal_flip=True)
    indices = torch.arange(9).repeat(3)
    parameters = store.draw(27, torch.Generator().manual_seed(0))
    assert parameters is not None
    expected = []
    for index, (row, column, flip) in zip(indices.tolist(), parameters.tolist(), strict=True):
        image = vision.crop(vision.pad(images[index], [3]), row, column, 6, 7)
        image = vision.horizontal_flip(image) if flip else image
        expected.append(vision.normalize(vision.to_dtype(image, scale=True), list(MEAN), list(STD)))
    torch.testing.assert_close(store.gather(indices, parameters), torch.stack(expected), rtol=1e-5, atol=1e-6)
