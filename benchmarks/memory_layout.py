"""What it costs to look at the layout of gradients and state before a fused step.

The check alone (median of 200), its share of a step of adamw, that step beside torch's fused AdamW on the same groups
(in turn, median of the ratios), and the share of a whole training step of 64 samples in a bare loop, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/memory_layout.py
"""

import statistics
import time
from collections.abc import Callable

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

from steepest.optim import OPTIMIZERS
from steepest.optim.core.layout import in_layout_of, is_laid_out_as

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MLP of 3 layers": lambda: nn.Sequential(
        nn.Flatten(), *(nn.Linear(a, b) for a, b in ((64, 128), (128, 128), (128, 10)))
    ),
    "ResNet-18": lambda: resnet18(num_classes=10),
    "ViT of width 192": lambda: VisionTransformer(32, 4, 6, 3, 192, 768, num_classes=10),
}


def timed(call: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def row_of(name: str) -> list[str]:
    """What the table says of a network."""
    module = NETWORKS[name]()
    images = torch.randn(64, 1, 8, 8) if name.startswith("MLP") else torch.randn(64, 3, 32, 32)
    optimizer = OPTIMIZERS.create("adamw", module)
    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in optimizer.param_groups]
    theirs = torch.optim.AdamW(groups, lr=1e-3, fused=True)

    def train() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), torch.arange(64) % 10).backward()
        optimizer.step()

    def check() -> None:
        for group in optimizer.param_groups:
            parameters = group["params"]
            all(is_laid_out_as(parameter, optimizer.state[parameter]["exp_avg"]) for parameter in parameters)
            in_layout_of(parameters, [parameter.grad for parameter in parameters])

    training = statistics.median(timed(train) for _ in range(3 if images.shape[1] == 3 else 50))
    theirs.step()
    rounds = [(timed(theirs.step), timed(optimizer.step)) for _ in range(60)]
    checked = statistics.median(timed(check) for _ in range(200))
    step = statistics.median(own for _, own in rounds)
    ratio = statistics.median(own / other for other, own in rounds)
    shares = [f"{100 * checked / whole:.2g} %" for whole in (step, training)]
    return [name, str(len(list(module.parameters()))), f"{checked:.3f}", shares[0], f"{ratio:.2f}", shares[1]]


def main() -> None:
    torch.set_num_threads(1)
    table = Table(
        "network", "tensors", "check, ms", "of a step", "step / torch's", "of a training step", box=box.MARKDOWN
    )
    for name in NETWORKS:
        table.add_row(*row_of(name))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
