"""Images kept on the device that trains: the same batches, made there."""

import pytest
import torch
from lightning import Trainer

from steepest.datamodules import Digits
from steepest.datamodules.augmentation import ImageStore
from steepest.datamodules.loader import TensorLoader

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
AUGMENTATION = {"random_crop": 2, "horizontal_flip": True, "cutout": 3}


def store(**options) -> ImageStore:
    images = torch.randint(0, 256, (20, 3, 8, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageStore(images, (0.5,) * 3, (0.25,) * 3, **options)


@pytest.mark.parametrize("augmentation", [{}, AUGMENTATION, {**AUGMENTATION, "horizontal_flip": "alternating"}])
@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
def test_batches_are_made_on_the_device(augmentation, device) -> None:
    # The device without memory shows where everything is computed: one tensor left on the CPU is an error.
    moved, labels = store(**augmentation), torch.arange(20)
    moved.to(torch.device(device))
    batches = list(TensorLoader(moved, labels.to(device), 6, shuffle=True, seed=3, device=torch.device(device)))
    expected = list(TensorLoader(store(**augmentation), labels, 6, shuffle=True, seed=3))
    assert len(batches) == len(expected) == 4
    for (images, targets), (wanted_images, wanted_targets) in zip(batches, expected, strict=True):
        assert images.device.type == targets.device.type == device
        assert (images.shape, images.dtype) == (wanted_images.shape, wanted_images.dtype)
        if device != "meta":
            assert torch.equal(images.cpu(), wanted_images)
            assert torch.equal(targets.cpu(), wanted_targets)


def test_on_a_cpu_nothing_changes(tmp_path) -> None:
    epochs = []
    for keep in (False, True):
        data = Digits(batch_size=64, keep_on_device=keep, **AUGMENTATION)
        data.trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
        data.setup("fit")
        epochs.append([torch.cat([images.flatten(), labels.float()]) for images, labels in data.train_dataloader()])
    assert all(torch.equal(one, other) for one, other in zip(*epochs, strict=True))
