"""The shared base of all image data sets that are held in memory."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import lightning
import torch
from torch import Tensor

from steepest.common.run import progress_of, ranks_of, run_seed
from steepest.datamodules.augmentation import CropPadding, HorizontalFlip, ImageStore
from steepest.datamodules.checks import check_at_least, overfits
from steepest.datamodules.loader import TensorLoader


class ImageDataModule(lightning.LightningDataModule, ABC):
    """Training, validation and test images held in memory, in batches of normalized images and labels.

    A data set is a subclass that sets the class attributes and implements `load` (and `prepare_data` to download).
    The order of the images and their augmentation are functions of the seed, the epoch and the position in it, so that
    they are the same for any number of processes and after a resume, also inside an epoch.

    Args:
        batch_size: Training images per batch and process, at least 1.
        validation_size: Part of the training images that is kept for validation: a count, or a fraction in (0, 1).
            0 trains on all images, and there is no validation loader.
        split_seed: Seed of the validation split. It is apart from the run's seed, so that runs with other seeds are
            validated on the same images.
        seed: Seed of order and augmentation; null takes the run's global seed (`seed_everything`), or 0 without one.
        shuffle: Whether each training epoch has a new random order. Ignored under `overfit_batches`, which by its
            meaning repeats the same batches.
        drop_last: Whether a last, smaller training batch is left out, so that all steps average over equally many.
        random_crop: Pixels of padding around training images, from which random crops are cut; 0 for none.
        crop_padding: What this padding is: zero (black) or reflect (the image mirrored at its border).
        horizontal_flip: Whether half of the training images are mirrored, anew in each epoch. "alternating" mirrors
            each of them in every other epoch, starting with a random half (arXiv:2404.00498).
        cutout: Side in pixels of a square at a random place of each training image that is set to the mean color
            (arXiv:1708.04552); 0 for none.
        evaluation_batch_size: Images per batch and process in validation, test and prediction. Null takes four times
            `batch_size`, as there is room without gradients.
        keep_on_device: Whether all images are kept in the memory of the device that trains (for CIFAR-10 one byte of
            each of 3,072 values, about 0.2 GB) and batches are made there. They are the same, to the bit.

    Raises:
        ValueError: If a value is out of its range.
    """

    input_shape: ClassVar[tuple[int, int, int]]
    """Channels, height and width of an image."""
    num_classes: ClassVar[int]
    """Number of classes; labels are 0, ..., num_classes - 1."""
    mean: ClassVar[tuple[float, ...]]
    """Mean of each channel over the training images, of pixels scaled to [0, 1]."""
    std: ClassVar[tuple[float, ...]]
    """Standard deviation of each channel over the training images, of pixels scaled to [0, 1]."""
    pixel_maximum: ClassVar[int] = 255
    """Pixel value that stands for white."""

    def __init__(
        self,
        batch_size: int = 128,
        validation_size: int | float = 0.1,
        split_seed: int = 0,
        seed: int | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
        random_crop: int = 0,
        crop_padding: CropPadding = "zero",
        horizontal_flip: HorizontalFlip = False,
        cutout: int = 0,
        evaluation_batch_size: int | None = None,
        keep_on_device: bool = False,
    ) -> None:
        super().__init__()
        check_at_least("batch_size", batch_size, 1)
        check_at_least("split_seed", split_seed, 0)
        check_at_least("random_crop", random_crop, 0)
        check_at_least("cutout", cutout, 0)
        if seed is not None:
            check_at_least("seed", seed, 0)
        if evaluation_batch_size is not None:
            check_at_least("evaluation_batch_size", evaluation_batch_size, 1)
        if not 0 <= validation_size < (1 if isinstance(validation_size, float) else math.inf):
            raise ValueError(f"validation_size must be a count or a fraction in [0, 1), got {validation_size}")
        self.batch_size = batch_size
        self.validation_size = validation_size
        self.split_seed = split_seed
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.random_crop = random_crop
        self.crop_padding = crop_padding
        self.horizontal_flip = horizontal_flip
        self.cutout = cutout
        self.evaluation_batch_size = 4 * batch_size if evaluation_batch_size is None else evaluation_batch_size
        self.keep_on_device = keep_on_device
        self._sets: dict[str, tuple[ImageStore, Tensor]] = {}
        if validation_size == 0:
            # Lightning leaves validation out where this method is not overridden; an empty loader makes it warn.
            self.val_dataloader = super().val_dataloader

    @abstractmethod
    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Read the training or the test set.

        Args:
            train: Whether the training images (of which the validation images are a part) or the test images are meant.

        Returns:
            uint8 images of shape (samples, *input_shape) and int64 labels of shape (samples,).
        """

    def setup(self, stage: str | None = None) -> None:
        """Load the images of a stage ("fit", "validate", "test", "predict"; None for all) and split them."""
        if stage in ("fit", "validate", None) and "train" not in self._sets:
            images, labels = self._load_checked(train=True)
            training, validation = self._split(len(images))
            store = self._store(
                images[training],
                random_crop=self.random_crop,
                crop_padding=self.crop_padding,
                horizontal_flip=self.horizontal_flip,
                cutout=self.cutout,
                seed=run_seed(self.seed),
            )
            self._sets["train"] = store, labels[training]
            if len(validation):
                self._sets["validation"] = self._store(images[validation]), labels[validation]
        if stage in ("test", "predict", None) and "test" not in self._sets:
            images, labels = self._load_checked(train=False)
            self._sets["test"] = self._store(images), labels

    def train_dataloader(self) -> TensorLoader:
        """Return the training batches."""
        return self._loader(
            *self._get("train", "fit"),
            self.batch_size,
            shuffle=self.shuffle and not overfits(self),
            drop_last=self.drop_last,
            progress=progress_of(self.trainer),
        )

    def val_dataloader(self) -> TensorLoader:
        """Return the validation batches."""
        store, labels = self._get("validation", "fit")
        return self._loader(store, labels, self.evaluation_batch_size)

    def test_dataloader(self) -> TensorLoader:
        """Return the test batches."""
        store, labels = self._get("test", "test")
        return self._loader(store, labels, self.evaluation_batch_size)

    def predict_dataloader(self) -> TensorLoader:
        """Return the batches of test images, without labels."""
        store, _ = self._get("test", "predict")
        return self._loader(store, None, self.evaluation_batch_size)

    def _load_checked(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = self.load(train)
        name = type(self).__name__
        if images.shape[1:] != self.input_shape:
            raise ValueError(f"{name} images must have shape {self.input_shape}, got {tuple(images.shape[1:])}")
        if len(labels) != len(images):
            raise ValueError(f"{name} has {len(images)} images but {len(labels)} labels")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(f"{name} labels must be in [0, {self.num_classes}), got {labels.min()} to {labels.max()}")
        return images, labels

    def _split(self, samples: int) -> tuple[Tensor, Tensor]:
        """Return the places of the training and of the validation images."""
        size = self.validation_size
        count = round(size * samples) if isinstance(size, float) else size
        if count >= samples or (size and not count):
            raise ValueError(f"validation_size must take between 1 and {samples - 1} training images, got {size}")
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(self.split_seed))
        return order[count:].sort().values, order[:count].sort().values

    def _store(self, images: Tensor, **augmentation: Any) -> ImageStore:
        return ImageStore(images, self.mean, self.std, pixel_maximum=self.pixel_maximum, **augmentation)

    def _get(self, name: str, stage: str) -> tuple[ImageStore, Tensor]:
        if name not in self._sets:
            raise RuntimeError(f"the {name} images are not loaded; call setup({stage!r}) first")
        return self._sets[name]

    def _loader(self, store: ImageStore, labels: Tensor | None, batch_size: int, **options: Any) -> TensorLoader:
        rank, world_size = ranks_of(self.trainer)
        if self.keep_on_device and self.trainer is not None:
            device = options["device"] = self.trainer.strategy.root_device
            store.to(device)
            labels = None if labels is None else labels.to(device)
        seed = run_seed(self.seed)
        return TensorLoader(store, labels, batch_size, seed=seed, rank=rank, world_size=world_size, **options)
