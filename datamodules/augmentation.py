"""Images held in memory, augmented and normalized a whole batch at a time."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

HorizontalFlip = bool | Literal["alternating"]
CropPadding = Literal["zero", "reflect"]


class ImageStore:
    """Holds uint8 images and gives batches of them as normalized floats, randomly cropped, flipped and cut on request.

    The images are padded once, when they are stored. A random crop of a whole batch is then one gather from a view that
    lists every run of `width` pixels in memory, and this is more than ten times as fast as cropping image by image.

    Args:
        images: uint8 tensor of shape (samples, channels, height, width).
        mean: Mean of each channel, of pixels scaled to [0, 1].
        std: Standard deviation of each channel, of pixels scaled to [0, 1]; positive.
        pixel_maximum: Pixel value that is scaled to 1.
        random_crop: Pixels of padding on each side, from which crops of the original size are cut; 0 for none.
        crop_padding: What the padding is: "zero" (black) or "reflect" (the image mirrored at its border).
        horizontal_flip: Whether half of the images are mirrored left to right. "alternating" mirrors each image in
            every other epoch, starting with a random half of the images, so that two epochs see all images both ways
            (arXiv:2404.00498).
        cutout: Side of a square, in pixels, that is set to the mean color; its center is anywhere in the image, so that
            a part of it can fall outside (arXiv:1708.04552); 0 for none.
        seed: Seed of the half that an alternating flip begins with, at least 0.

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
        crop_padding: CropPadding = "zero",
        horizontal_flip: HorizontalFlip = False,
        cutout: int = 0,
        seed: int = 0,
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
        if crop_padding not in get_args(CropPadding):
            raise ValueError(f"crop_padding must be zero or reflect, got {crop_padding!r}")
        if crop_padding == "reflect" and random_crop >= min(height, width):
            raise ValueError(f"random_crop must be below {min(height, width)} pixels to reflect, got {random_crop}")
        if horizontal_flip not in (False, True, "alternating"):
            raise ValueError(f"horizontal_flip must be true, false or alternating, got {horizontal_flip!r}")
        if cutout < 0:
            raise ValueError(f"cutout must be at least 0 pixels, got {cutout}")
        self.random_crop = random_crop
        self.horizontal_flip = horizontal_flip
        self.cutout = cutout
        self._images = _pad(images, random_crop, crop_padding)
        self._shape = images.shape[1:]
        generator = torch.Generator().manual_seed(seed)
        self._flipped_first = torch.randint(2, (len(images),), generator=generator)
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

    def to(self, device: torch.device) -> None:
        """Move the images to a device, where batches are then made; the numbers stay the same."""
        if device == self._images.device:
            return
        for name in ("_images", "_flipped_first", "_row_starts", "_scale", "_shift"):
            setattr(self, name, getattr(self, name).to(device))
        self._runs = self._images.view(-1).unfold(0, self._shape[2], 1)

    def draw(self, count: int, generator: torch.Generator, epoch: int = 0) -> Tensor | None:
        """Draw how each of `count` images of an epoch is changed.

        Args:
            count: Number of images.
            generator: Source of the random numbers.
            epoch: Number of the epoch, which an alternating flip follows.

        Returns:
            int64 tensor of shape (count, 3), or None if nothing changes: row and column of the window, in
            [0, 2 random_crop], and flip, 0 or 1 (relative to the first epoch, if it alternates). With cutout its shape
            is (count, 5): row and column of the center of the square follow.
        """
        if not self.random_crop and not self.horizontal_flip and not self.cutout:
            return None
        offsets = torch.randint(2 * self.random_crop + 1, (count, 2), generator=generator)
        if self.horizontal_flip == "alternating":
            flips = torch.full((count, 1), epoch % 2)
        else:
            flips = torch.randint(2 if self.horizontal_flip else 1, (count, 1), generator=generator)
        sides = self._shape[1:] if self.cutout else ()
        centers = [torch.randint(side, (count, 1), generator=generator) for side in sides]
        return torch.cat([offsets, flips, *centers], dim=1)

    def gather(self, indices: Tensor, parameters: Tensor | None) -> Tensor:
        """Return a batch of images.

        Args:
            indices: int64 tensor of shape (batch,), on the images' device.
            parameters: Rows of `draw`, of shape (batch, 3 or 5), there too; None leaves the images as they are.

        Returns:
            Normalized float32 tensor of shape (batch, channels, height, width).
        """
        if parameters is None:
            return self._normalize(self._crop(indices, self.random_crop, self.random_crop))
        row, column, flip = parameters[:, :3].unbind(1)
        batch = self._crop(indices, row, column)
        if self.horizontal_flip == "alternating":
            flip = flip ^ self._flipped_first[indices]
        if self.horizontal_flip:
            # Choosing from both versions costs a third of flipping the masked images in place.
            both = torch.cat([batch, batch.flip(3)])
            batch = both.index_select(0, torch.arange(len(batch), device=batch.device) + len(batch) * flip)
        batch = self._normalize(batch)
        if self.cutout:  # after normalization, when the mean color is 0
            batch.masked_fill_(self._hole(*parameters[:, 3:].unbind(1)), 0)
        return batch

    def _crop(self, indices: Tensor, row: Tensor | int, column: Tensor | int) -> Tensor:
        if not self.random_crop:
            return self._images.index_select(0, indices)
        image_stride, _, row_stride, _ = self._images.stride()
        first = indices * image_stride + row * row_stride + column
        starts = first[:, None] + self._row_starts  # (batch, channels * height)
        return self._runs.index_select(0, starts.view(-1)).view(-1, *self._shape)

    def _hole(self, row: Tensor, column: Tensor) -> Tensor:
        """Return where the squares of shape (batch, 1, height, width) around these centers are."""
        top, left = (center[:, None] - self.cutout // 2 for center in (row, column))
        rows, columns = (torch.arange(size, device=row.device) for size in self._shape[1:])
        in_rows = (rows >= top) & (rows < top + self.cutout)
        in_columns = (columns >= left) & (columns < left + self.cutout)
        return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]

    def _normalize(self, batch: Tensor) -> Tensor:
        return batch.float().mul_(self._scale).add_(self._shift)


def _pad(images: Tensor, size: int, padding: CropPadding) -> Tensor:
    if padding == "zero":
        return functional.pad(images, (size,) * 4).contiguous()
    for dimension in (2, 3):  # by index, as torch reflects no bytes
        last = images.shape[dimension] - 1
        places = torch.arange(-size, last + size + 1).abs()
        images = images.index_select(dimension, last - (last - places).abs())
    return images


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
