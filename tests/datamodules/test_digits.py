import torch
from sklearn.datasets import load_digits

from steepest.datamodules.digits import Digits


def test_training_and_test_images_are_the_whole_set():
    data = Digits()
    (train_images, train_labels), (test_images, test_labels) = data.load(train=True), data.load(train=False)
    assert train_images.shape == (1437, 1, 8, 8)
    assert test_images.shape == (360, 1, 8, 8)
    assert train_images.dtype == torch.uint8
    assert train_labels.dtype == torch.int64
    pixels, classes = load_digits(return_X_y=True)
    rows = torch.cat(
        [torch.cat([train_images, test_images]).flatten(1), torch.cat([train_labels, test_labels])[:, None]], 1
    )
    expected = torch.cat([torch.from_numpy(pixels), torch.from_numpy(classes)[:, None]], 1)
    assert sorted(rows.tolist()) == sorted(expected.tolist())


def test_the_test_set_is_stratified_and_always_the_same():
    labels = Digits(split_seed=3, seed=4).load(train=False)[1]
    everything = torch.from_numpy(load_digits(return_X_y=True)[1])
    assert (labels.bincount() - everything.bincount() / 5).abs().max() < 1
    assert labels[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]  # another scikit-learn must not draw another one
    assert torch.equal(labels, Digits().load(train=False)[1])


def test_constants_are_those_of_the_training_images():
    pixels = Digits().load(train=True)[0].double() / Digits.pixel_maximum
    assert round(pixels.mean().item(), 4) == Digits.mean[0]
    assert round(pixels.std().item(), 4) == Digits.std[0]
    assert pixels.max() == 1
