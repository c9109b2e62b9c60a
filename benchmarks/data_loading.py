"""Images and tokens per CPU-second of our training batches beside the usual ways, on generated data.

Images: torchvision. Tokens: the way of nanoGPT's train.py (a new memory map and one window after the other for every
batch), a map-style data set in a DataLoader, and the library `datasets`.

Every contestant makes the same kind of batch in each round, one after the other, on one thread; medians are shown.
The per-sample ways run in a DataLoader without workers, so that the work is counted where it is done.

    python benchmarks/data_loading.py --rounds 7 --only tokens
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms
from torchvision.transforms import v2

from steepest.datamodules.augmentation import ImageStore
from steepest.datamodules.loader import TensorLoader
from steepest.datamodules.token_windows import TrainingWindows

SAMPLES = 20_000
PER_SAMPLE = 2_048  # images a round of the slow ways, which have the same speed throughout
BATCH_SIZE = 512

TOKENS = 20_000_000
BLOCK_SIZE, WINDOWS = 256, 64  # the shape of a batch of tokens, nanoGPT's baby GPT
TOKEN_BATCHES = 200  # of a round


class PerSample(Dataset):
    """Images that are transformed one by one, from PIL as torchvision's data sets do, or from tensors."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable, pil: bool) -> None:
        pixels = images.permute(0, 2, 3, 1).squeeze(3).numpy()  # (samples, height, width[, channels]), as PIL has it
        self.image = (lambda index: Image.fromarray(pixels[index])) if pil else (lambda index: images[index])
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.image(index)), int(self.labels[index])


def contestants(shape: tuple[int, int, int], augment: bool) -> dict[str, tuple[Iterable, int]]:
    """Return by name what yields batches, and how many images a pass has."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SAMPLES, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (SAMPLES,), generator=generator)
    channels, size = shape[0], shape[1]
    mean, std = (0.5,) * channels, (0.25,) * channels

    crop = 4 if augment else 0
    store = ImageStore(images, mean, std, random_crop=crop, horizontal_flip=augment)
    ours = TensorLoader(store, labels, BATCH_SIZE, shuffle=True, drop_last=True)

    first = [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()] if augment else []
    second = [v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip()] if augment else []
    v1_pil = transforms.Compose([*first, transforms.ToTensor(), transforms.Normalize(mean, std)])
    v2_tensor = v2.Compose([*second, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])

    def loader(transform: Callable, pil: bool) -> DataLoader:
        data = Subset(PerSample(images, labels, transform, pil), range(PER_SAMPLE))
        return DataLoader(data, BATCH_SIZE, shuffle=True)

    return {
        "steepest, whole batch": (ours, len(ours) * BATCH_SIZE),
        "torchvision v1, PIL, per sample": (loader(v1_pil, pil=True), PER_SAMPLE),
        "torchvision v2, tensors, per sample": (loader(v2_tensor, pil=False), PER_SAMPLE),
    }


class First:
    """The first batches of a loader, anew in each pass."""

    def __init__(self, loader: Iterable, batches: int) -> None:
        self.loader, self.batches = loader, batches

    def __iter__(self) -> Iterator[Any]:
        for _, batch in zip(range(self.batches), self.loader, strict=False):
            yield batch


class NanoGPT:
    """Batches as nanoGPT's train.py makes them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            data = np.memmap(self.path, dtype=np.uint16, mode="r")
            places = torch.randint(len(data) - BLOCK_SIZE, (WINDOWS,))
            inputs = [torch.from_numpy(data[place : place + BLOCK_SIZE].astype(np.int64)) for place in places]
            targets = [torch.from_numpy(data[place + 1 : place + 1 + BLOCK_SIZE].astype(np.int64)) for place in places]
            yield torch.stack(inputs), torch.stack(targets)


class Windows(Dataset):
    """Windows of a memory map, one by one."""

    def __init__(self, path: Path) -> None:
        self.data = np.memmap(path, dtype=np.uint16, mode="r")

    def __len__(self) -> int:
        return len(self.data) // BLOCK_SIZE - 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * BLOCK_SIZE
        window = torch.from_numpy(self.data[start : start + BLOCK_SIZE + 1].astype(np.int64))
        return window[:-1], window[1:]


def token_contestants(path: Path) -> dict[str, tuple[Iterable, int]]:
    """Return by name what yields batches of tokens, and how many tokens a pass has."""
    import datasets

    tokens = torch.from_file(str(path), shared=False, size=TOKENS, dtype=torch.uint16)
    ours = TensorLoader(TrainingWindows(tokens, BLOCK_SIZE), None, WINDOWS, shuffle=True, drop_last=True)
    rows = np.memmap(path, dtype=np.uint16, mode="r")[: (BLOCK_SIZE + 1) * 20_000].reshape(-1, BLOCK_SIZE + 1)
    stored = datasets.Dataset.from_dict({"tokens": rows.astype(np.int64)}).with_format("torch")
    ways = {
        "steepest, one gather of mapped windows": (ours, TOKEN_BATCHES),
        "nanoGPT's get_batch": (NanoGPT(path), TOKEN_BATCHES // 4),
        "map-style data set, DataLoader": (DataLoader(Windows(path), WINDOWS, shuffle=True), TOKEN_BATCHES // 4),
        "datasets, torch format, DataLoader": (DataLoader(stored, WINDOWS, shuffle=True), TOKEN_BATCHES // 10),  # type: ignore[arg-type]
    }
    size = WINDOWS * BLOCK_SIZE
    return {name: (First(loader, batches), batches * size) for name, (loader, batches) in ways.items()}


def measure(rounds: int, ways: dict[str, tuple[Iterable, int]]) -> dict[str, list[float]]:
    """Return the samples per CPU-second of each contestant in each round, after a round to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, (batches, count) in ways.items():
            start = time.process_time()
            for _ in batches:
                pass
            rates[name].append(count / (time.process_time() - start))
    return {name: values[1:] for name, values in rates.items()}


def show(title: str, what: str, rates: dict[str, list[float]]) -> None:
    table = Table("way", f"{what} per CPU-second", "steepest is faster by", title=title, title_justify="left")
    ours = next(iter(rates.values()))
    for name, values in rates.items():
        ratio = median(a / b for a, b in zip(ours, values, strict=True))
        table.add_row(name, f"{median(values):,.0f}", "" if values is ours else f"{ratio:.1f} x")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (default: 7)")
    parser.add_argument("--only", choices=("images", "tokens"), help="measure one kind of data only")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    torch.set_num_threads(1)
    if options.only != "tokens":
        images = {
            "3 x 32 x 32, crop 4 + flip + normalize": ((3, 32, 32), True),
            "1 x 28 x 28, normalize": ((1, 28, 28), False),
        }
        for title, (shape, augment) in images.items():
            show(title, "images", measure(options.rounds, contestants(shape, augment)))
    if options.only != "images":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokens.bin"
            np.random.default_rng(0).integers(50257, size=TOKENS, dtype=np.uint16).tofile(path)
            title = f"{WINDOWS} windows of {BLOCK_SIZE} tokens of {TOKENS:,}"
            show(title, "tokens", measure(options.rounds, token_contestants(path)))


if __name__ == "__main__":
    main()
