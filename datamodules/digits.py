"""The 1,797 handwritten digits that come with scikit-learn: no download, a run takes seconds."""

from typing import Any

import torch
from torch import Tensor

from steepest.datamodules.base import ImageDataModule


class Digits(ImageDataModule):
    """Handwritten digits of 8 x 8 pixels in ten classes (Alpaydin and Kaynak 1998), embedded in scikit-learn.

    The test set is always the same 360 images, a stratified fifth, drawn with the constant `TEST_SPLIT_SEED`.

    Args:
        validation_size: Count or fraction of the 1,437 remaining images that is kept for validation; 0 for none.
        **kwargs: See `ImageDataModule`.

    Raises:
        ValueError: If a value is out of its range.
    """

    TEST_SPLIT_SEED = 0

    input_shape = (1, 8, 8)
    num_classes = 10
    mean = (0.3054,)
    std = (0.3761,)
    pixel_maximum = 16

    def __init__(self, validation_size: int | float = 0.15, **kwargs: Any) -> None:
        super().__init__(validation_size=validation_size, **kwargs)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return the training or the test digits."""
        # Here, as these imports take a second that other data sets need not pay.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, classes = load_digits(return_X_y=True)
        training, test = train_test_split(
            range(len(classes)), test_size=0.2, stratify=classes, random_state=self.TEST_SPLIT_SEED
        )
        chosen = training if train else test
        images = torch.from_numpy(pixels[chosen]).to(torch.uint8).view(-1, *self.input_shape)
        return images, torch.from_numpy(classes[chosen]).long()
