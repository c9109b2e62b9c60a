"""Images per CPU-second of our training batches beside torchvision's usual ways, on generated images.

Every contestant makes the same kind of batch in each round, one after the other, on one thread; medians are shown.
The per-sample ways run in a DataLoader without workers, so that the work is counted where it is done.

    python benchmarks/data_loading.py --rounds 7
"""

import argparse
import time
from collections.abc import Callable, Iterable
from statistics import median

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms
from torchvision.transforms import v2

from datamodules.augmentation import ImageStore
from datamodules.loader import TensorLoader

SAMPLES = 20_000
PER_SAMPLE = 2_048  # images a round of the slow ways, which have the same speed throughout
BATCH_SIZE = 512


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


def measure(rounds: int, shape: tuple[int, int, int], augment: bool) -> dict[str, list[float]]:
    """Return the images per CPU-second of each contestant in each round, after a round to warm up."""
    ways = contestants(shape, augment)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, (batches, count) in ways.items():
            start = time.process_time()
            for _ in batches:
                pass
            rates[name].append(count / (time.process_time() - start))
    return {name: values[1:] for name, values in rates.items()}


def show(title: str, rates: dict[str, list[float]]) -> None:
    table = Table("way", "images per CPU-second", "steepest is faster by", title=title, title_justify="left")
    ours = next(iter(rates.values()))
    for name, values in rates.items():
        ratio = median(a / b for a, b in zip(ours, values, strict=True))
        table.add_row(name, f"{median(values):,.0f}", "" if values is ours else f"{ratio:.1f} x")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (default: 7)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    torch.set_num_threads(1)
    show("3 x 32 x 32, crop 4 + flip + normalize", measure(options.rounds, (3, 32, 32), augment=True))
    show("1 x 28 x 28, normalize", measure(options.rounds, (1, 28, 28), augment=False))


if __name__ == "__main__":
    main()
