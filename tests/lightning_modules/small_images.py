"""Images for networks that need larger ones than the digits."""

import torch
from torch import Tensor

from steepest.datamodules.base import ImageDataModule


class SmallImages(ImageDataModule):
    """Random images of the shape of CIFAR-10's, in five classes."""

    input_shape = (3, 32, 32)
    num_classes = 5
    mean = (0.5, 0.5, 0.5)
    std = (0.3, 0.3, 0.3)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(int(train))
        images = torch.randint(0, 256, (40, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return images, torch.arange(40) % self.num_classes
