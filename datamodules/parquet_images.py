"""Reads images and labels from Parquet files in the form of Hugging Face's data sets."""

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMN = "label"
FORMATS = ("JPEG", "PNG")  # what data sets come in; Pillow knows many more, some with their own risks


def parquet_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split, in order: `split.parquet`, or `split-00000-of-00002.parquet` and so on.

    Args:
        folder: Where they are looked for.
        split: "train" or "test".

    Returns:
        All files of the split; none if there is none of either form.

    Raises:
        FileNotFoundError: If some of the numbered files are missing.
        ValueError: If there are numbered files of more than one numbering.
    """
    numbered = {path.name: path for path in sorted(folder.glob(f"{split}-*-of-*.parquet"))}
    totals = {match[1] for name in numbered if (match := re.fullmatch(rf"{split}-\d+-of-(\d+)\.parquet", name))}
    if not totals:
        return [path for path in [folder / f"{split}.parquet"] if path.is_file()]
    if len(totals) > 1:
        raise ValueError(f"{folder} has {split} files of several sets: {', '.join(numbered)}; keep those of one")
    total = totals.pop()
    names = [f"{split}-{i:0{len(total)}d}-of-{total}.parquet" for i in range(int(total))]
    missing = [name for name in names if name not in numbered]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)} of the {int(total)} files of the {split} set")
    return [numbered[name] for name in names]


def read_parquet_images(paths: Sequence[Path], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Decode the images of Parquet files whose columns are `img` (or `image`) with {bytes, path}, and `label`.

    Args:
        paths: The files, in order; at least one.
        height: Height that every image must have, in pixels.
        width: Width that every image must have, in pixels.

    Returns:
        uint8 images (JPEG or PNG, as RGB) of shape (samples, 3, height, width), and int64
        labels of shape (samples,).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is damaged, has other columns, or an image does not decode to this size.
    """
    images, labels = [], []
    for path in paths:
        for row, (encoded, label) in enumerate(_rows(path)):
            images.append(_decode(encoded, (width, height), f"image {row} of {path}"))
            labels.append(label)
    pixels = np.stack(images) if images else np.empty((0, 3, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64)


def _rows(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield encoded image and label of each row."""
    import pyarrow  # here, as it takes a while that other data sets need not pay
    from pyarrow import parquet

    with path.open("rb") as content:  # outside the block below, so that a missing file is not called damaged
        try:
            file = parquet.ParquetFile(content)
            columns = file.schema_arrow.names
            image = next((name for name in IMAGE_COLUMNS if name in columns), None)
            if image is None or LABEL_COLUMN not in columns:
                raise ValueError(f"{path} must have columns img (or image) and label, it has {', '.join(columns)}")
            for batch in file.iter_batches(batch_size=1024, columns=[image, LABEL_COLUMN]):
                for row in batch.to_pylist():
                    yield _checked(row[image], row[LABEL_COLUMN], path)
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is damaged: {reason}; put a good copy of {path.name} there") from None


def _checked(image: object, label: object, path: Path) -> tuple[bytes, int]:
    encoded = image.get("bytes") if isinstance(image, dict) else None
    if not isinstance(encoded, bytes) or not isinstance(label, int):
        raise ValueError(f"each row of {path} must have an image as {{bytes, path}} and a whole number as label")
    return encoded, label


def _decode(encoded: bytes, size: tuple[int, int], what: str) -> np.ndarray:
    """Return an image of shape (3, height, width)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.size == size:
                return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
            found = f"{image.size[0]} x {image.size[1]}"
    except (OSError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises on bytes that are not an image
        raise ValueError(f"{what} is damaged: its {len(encoded)} bytes are not a JPEG or PNG image") from None
    raise ValueError(f"{what} has {found} pixels instead of {size[0]} x {size[1]}")
