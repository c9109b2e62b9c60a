"""Images held in memory, augmented and normalized a whole batch at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


class ImageStore:
    """Holds uint8 images and gives batches of them as normalized floats, randomly cropped and flipped on request.

    The images are padded once, when they are stored. A random crop of a whole batch is then one gather from a view that
    lists every run of `width` pixels in memory, and this is more than ten times as fast as cropping image by image.

    Args:
        images: uint8 tensor of shape (samples, channels, height, width).
        mean: Mean of each channel, of pixels scaled to [0, 1].
        std: Standard deviation of each channel, of pixels scaled to [0, 1]; positive.
        pixel_maximum: Pixel value that is scaled to 1.
        random_crop: Pixels of zero padding on each side, from which crops of the original size are cut; 0 for none.
        horizontal_flip: Whether half of the images are mirrored left to right.

    Raises:
        ValueError: If the images are not uint8 of four dimensions, none empty, or an argument does not fit them.
    """

    def __init__(
        self,
        images: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        pixel_maximum: int = 255,
        random_crop: int = 0,
        horizontal_flip: bool = False,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.numel() == 0:
            raise ValueError(f"images must be uint8 (samples, channels, height, width), got {_describe(images)}")
        channels, height, width = images.shape[1:]
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise ValueError(
                f"mean and std (positive) must have one value for each of {channels} channels, got {mean} and {std}"
            )
        if random_crop < 0:
            raise ValueError(f"random_crop must be at least 0 pixels, got {random_crop}")
        self.random_crop = random_crop
        self.horizontal_flip = horizontal_flip
        self._images = functional.pad(images, (random_crop,) * 4).contiguous()
        self._shape = images.shape[1:]
        # Every run of `width` neighboring pixels, without a copy, and where the rows of an image's first window begin.
        self._runs = self._images.view(-1).unfold(0, width, 1)
        channel, row, _ = self._images.stride()[1:]
        self._row_starts = (torch.arange(channels)[:, None] * channel + torch.arange(height) * row).view(1, -1)
        # (x / maximum - mean) / std = x * scale + shift, with one multiplication and one addition in place
        deviation = torch.tensor(std, dtype=torch.float64)
        self._scale = (1 / (pixel_maximum * deviation)).float().view(-1, 1, 1)
        self._shift = (-torch.tensor(mean, dtype=torch.float64) / deviation).float().view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self._images)

    def draw(self, count: int, generator: torch.Generator) -> Tensor | None:
        """Draw for each of `count` images: row and column of its window, in [0, 2 random_crop], and flip, 0 or 1.

        Args:
            count: Number of images.
            generator: Source of the random numbers.

        Returns:
            int64 tensor of shape (count, 3), or None if nothing is random.
        """
        if not self.random_crop and not self.horizontal_flip:
            return None
        offsets = torch.randint(2 * self.random_crop + 1, (count, 2), generator=generator)
        flips = torch.randint(1 + self.horizontal_flip, (count, 1), generator=generator)
        return torch.cat([offsets, flips], dim=1)

    def gather(self, indices: Tensor, parameters: Tensor | None) -> Tensor:
        """Return a batch of images.

        Args:
            indices: int64 tensor of shape (batch,).
            parameters: Rows of `draw`, of shape (batch, 3); None leaves the images as they are.

        Returns:
            Normalized float32 tensor of shape (batch, channels, height, width).
        """
        if parameters is None:
            return self._normalize(self._crop(indices, self.random_crop, self.random_crop))
        row, column, flip = parameters.unbind(1)
        batch = self._crop(indices, row, column)
        if self.horizontal_flip:
            # Choosing from both versions costs a third of flipping the masked images in place.
            both = torch.cat([batch, batch.flip(3)])
            batch = both.index_select(0, torch.arange(len(batch)) + len(batch) * flip)
        return self._normalize(batch)

    def _crop(self, indices: Tensor, row: Tensor | int, column: Tensor | int) -> Tensor:
        if not self.random_crop:
            return self._images.index_select(0, indices)
        image_stride, _, row_stride, _ = self._images.stride()
        first = indices * image_stride + row * row_stride + column
        starts = first[:, None] + self._row_starts  # (batch, channels * height)
        return self._runs.index_select(0, starts.view(-1)).view(-1, *self._shape)

    def _normalize(self, batch: Tensor) -> Tensor:
        return batch.float().mul_(self._scale).add_(self._shift)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
