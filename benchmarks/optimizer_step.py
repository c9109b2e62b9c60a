"""Time of `optimizer.step()` beside torch.optim and other libraries, on the parameters of ResNet-18 and a 30M GPT.

All contestants of a table step in turn, round after round, on the same constant gradients and one thread. The tables,
in Markdown, show medians of the CPU time (on a GPU: of the time until it is done) and medians of the ratios to the
first contestant within a round, which other work on the machine hardly changes. Of the inner solvers they also show
the largest relative duality gap left. A library that is not installed is left out by name;
`make bench` installs all.

    OMP_NUM_THREADS=1 python benchmarks/optimizer_step.py [--rounds 15] [--only muon] [--device cuda] [--heavyball]
"""

import argparse
import contextlib
import importlib
import io
import statistics
import time
from collections.abc import Callable
from typing import Any, get_args

import torch
import torchvision
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from steepest.optim import OPTIMIZERS
from steepest.optim.autosgm.options import Numerator
from steepest.optim.core.composite import Composite

Make = Callable[[nn.Module], Optimizer]


class Block(nn.Module):
    """The parameters of a transformer block of GPT-2, without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.projection = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)


class GPT(nn.Module):
    """6 layers of width 384 and GPT-2's vocabulary, tied: 30 million parameters, 11 million of them in blocks."""

    def __init__(self, layers: int = 6, width: int = 384, vocabulary: int = 50257, block: int = 256) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(block, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)


def resnet18() -> nn.Module:
    """ResNet-18 for 32x32 images and 10 classes: 11.2 million parameters in 62 tensors."""
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return network


MODELS = {"ResNet-18": resnet18, "GPT 30M": GPT}


def ours(name: str, **options: Any) -> Make:
    return lambda module: OPTIMIZERS.create(name, module, **options)


def on_parameters(path: str, name: str, **options: Any) -> Make:
    """A class of another library over all parameters; ImportError where it is not installed."""

    def make(module: nn.Module) -> Optimizer:
        return getattr(importlib.import_module(path), name)(list(module.parameters()), **options)

    return make


def muon_of(path: str, name: str, **options: Any) -> Make:
    """Another Muon, on exactly the matrices that ours orthogonalizes; the rest is left out."""

    def make(module: nn.Module) -> Optimizer:
        groups = OPTIMIZERS.create("muon", module).param_groups
        hidden = [p for group in groups if group["algorithm"] == "muon" for p in group["params"]]
        # "use_muon" is how pytorch-optimizer's tells matrices from the rest.
        return getattr(importlib.import_module(path), name)([{"params": hidden, "use_muon": True}], **options)

    return make


def torch_muon(module: nn.Module) -> Optimizer:
    """PyTorch's Muon, which has no step for kernels, on the same weights seen as matrices."""
    matrices = []
    for group in OPTIMIZERS.create("muon", module).param_groups:
        for weight in group["params"] if group["algorithm"] == "muon" else ():
            matrices.append(nn.Parameter(weight.detach().flatten(1)))
            matrices[-1].grad = weight.grad.flatten(1)
    return torch.optim.Muon(matrices, lr=1e-3)


class SGDWithPowerPass(torch.optim.SGD):
    """The yardstick of spectral clipping: a fused SGD step, and one pass of a power iteration over each matrix."""

    def __init__(self, module: nn.Module) -> None:
        groups = OPTIMIZERS.create("muon_sgd", module).param_groups
        self.matrices = [p.detach().flatten(1) for g in groups if g["algorithm"] == "muon_sgd" for p in g["params"]]
        super().__init__(module.parameters(), lr=1e-3, momentum=0.9, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        for matrix in self.matrices:
            torch.mv(matrix.mT, torch.mv(matrix, matrix[0]))
        return super().step(closure)


def muon_sgd(solver: str, budget: float = 1e-3) -> Make:
    """Ours within a budget, which by default every matrix reaches."""
    return ours("muon_sgd", momentum=0.9, inner_solver=solver, spectral_budget=budget)


def our_muon_alone(**options: Any) -> Make:
    """Ours without the AdamW part, to compare with Muons that have none, nor split queries, keys and values."""

    def make(module: nn.Module) -> Optimizer:
        optimizer = OPTIMIZERS.create("muon", module, **options)
        optimizer.param_groups = [group for group in optimizer.param_groups if group["algorithm"] == "muon"]
        for group in optimizer.param_groups:
            group.pop("split", None)
        return optimizer

    return make


def tables(heavyball: bool) -> dict[str, dict[str, Make]]:
    """Contestants by table; the first of each is what the others are divided by."""
    lr = {"lr": 1e-3}
    elementwise = {
        "torch AdamW fused": on_parameters("torch.optim", "AdamW", fused=True, **lr),
        "ours adamw": ours("adamw", **lr),
        "torch AdamW foreach": on_parameters("torch.optim", "AdamW", foreach=True, **lr),
        "torch AdamW for-loop": on_parameters("torch.optim", "AdamW", foreach=False, **lr),
        "ours reference_adamw": ours("reference_adamw", **lr),
        "pytorch-optimizer StableAdamW": on_parameters("pytorch_optimizer", "StableAdamW", **lr),
        "timm AdamWLegacy": on_parameters("timm.optim", "AdamWLegacy", **lr),
        "optimi AdamW": on_parameters("optimi", "AdamW", triton=False, **lr),
        "ours lion": ours("lion", lr=1e-4),
        "pytorch-optimizer Lion": on_parameters("pytorch_optimizer", "Lion", lr=1e-4),
        "torch SGD momentum fused": on_parameters("torch.optim", "SGD", momentum=0.9, fused=True, **lr),
        "ours momentum": ours("momentum", **lr),
    }
    if heavyball:
        elementwise["heavyball AdamW (compiled)"] = on_parameters("heavyball", "AdamW", **lr)
    return {
        "elementwise": elementwise,
        "autosgm": {
            "torch AdamW foreach": on_parameters("torch.optim", "AdamW", foreach=True, **lr),
            **{f"ours autosgm, {name}": ours("autosgm", numerator=name) for name in get_args(Numerator)},
            **{
                f"ours autosgm, {name}, compiled": ours("autosgm", numerator=name, compiled=True)
                for name in get_args(Numerator)
            },
            **{
                f"literal, {name}": on_parameters(
                    "steepest.optim.autosgm", "ReferenceAutoSGM", lr_cfg=(True, 1e-3, number)
                )
                for number, name in enumerate(get_args(Numerator))
            },
        },
        "muon": {
            "torch Muon": torch_muon,
            "ours muon": our_muon_alone(),
            "ours muon, gram": our_muon_alone(method="gram"),
            "ours muon, exact": our_muon_alone(method="exact"),
            "ours muon, float32": our_muon_alone(precision="float32"),
            "ours muon with AdamW": ours("muon"),
            "pytorch-optimizer Muon": muon_of("pytorch_optimizer", "Muon", **lr),
            "timm Muon": muon_of("timm.optim", "Muon", **lr),
        },
        "spectral clipping": {
            "torch SGD momentum fused and a power pass": SGDWithPowerPass,
            "torch SGD momentum fused": on_parameters("torch.optim", "SGD", momentum=0.9, fused=True, **lr),
            "ours muon_sgd without a budget": muon_sgd("none"),
            "ours spectral_clip, budget out of reach": muon_sgd("spectral_clip", 1e3),
            "ours spectral_clip_fast, budget reached": muon_sgd("spectral_clip_fast"),
            "ours spectral_clip, budget reached": muon_sgd("spectral_clip"),
        },
        "solvers": {
            "ours muon": our_muon_alone(),
            **{
                f"ours muon_sgd, {solver}": muon_sgd(solver)
                for solver in ("spectral_clip", "exact", "frank_wolfe", "dual_ascent", "quasi_newton", "admm")
            },
        },
    }


def give_gradients(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = (gradient * 1e-2).to(parameter.device)


def build(makes: dict[str, Make], model: str, device: str) -> tuple[dict[str, Optimizer], list[str]]:
    """Each contestant on a model of its own; what could not be built, and why."""
    built, left_out = {}, []
    for name, make in makes.items():
        module = MODELS[model]().to(device)
        give_gradients(module)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                optimizer = make(module)
                optimizer.step()
        except ImportError as error:
            left_out.append(f"{name}: {error.name or error} is not installed")
        except Exception as error:  # a peer that cannot step this model is a result, too
            left_out.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
        else:
            optimizer.module = module  # type: ignore[attr-defined]
            built[name] = optimizer
    return built, left_out


def measure(built: dict[str, Optimizer], rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of each step, by contestant and round."""
    times: dict[str, list[float]] = {name: [] for name in built}
    clock = time.process_time if device == "cpu" else time.perf_counter
    for _ in range(rounds):
        for name, optimizer in built.items():
            if any(p.grad is None for group in optimizer.param_groups for p in group["params"]):
                give_gradients(optimizer.module)  # type: ignore[attr-defined]
            _wait(device)
            start = clock()
            optimizer.step()
            _wait(device)
            times[name].append((clock() - start) * 1e3)
    return times


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def gaps(built: dict[str, Optimizer]) -> dict[str, float]:
    """The largest relative duality gap that an inner solver left, by contestant."""
    found = {}
    for name, optimizer in built.items():
        if isinstance(optimizer, Composite):
            optimizer.record_statistics = True
            optimizer.step()
            left = [stats["relative_gap"] for stats in optimizer.last_stats.values() if "relative_gap" in stats]
            found |= {name: max(float(gap) for gap in left)} if left else {}
    return found


def show(console: Console, title: str, times: dict[str, list[float]], gaps: dict[str, float]) -> None:
    table = Table("optimizer", "ms a step", "ratio", *(["largest gap"] if gaps else []), box=box.MARKDOWN)
    first = next(iter(times.values()))
    for name, values in times.items():
        ratio = statistics.median(value / base for value, base in zip(values, first, strict=True))
        gap = ([f"{gaps[name]:.0e}"] if name in gaps else [""]) if gaps else []
        table.add_row(name, f"{statistics.median(values):.2f}", f"{ratio:.2f}", *gap)
    console.print(f"### {title}", table, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=list(tables(False)), help="one table")
    parser.add_argument("--model", choices=list(MODELS), help="one model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--heavyball", action="store_true", help="also HeavyBall, which compiles for a minute")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    for title, makes in tables(arguments.heavyball).items():
        if arguments.only not in (None, title):
            continue
        for model in [arguments.model] if arguments.model else MODELS:
            built, left_out = build(makes, model, arguments.device)
            times = measure(built, arguments.rounds, arguments.device)
            show(console, f"{title}, {model}", times, gaps(built) if title == "solvers" else {})
            for line in left_out:
                console.print(f"Left out: {line}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
