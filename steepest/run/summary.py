"""The tables a command ends with."""

from collections.abc import Mapping
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from steepest.callbacks.gradient_flow import GradientFlowMonitor

MOST_ROWS = 24
LABELS = {
    "test/accuracy": "test accuracy",
    "test/loss": "test loss",
    "val/accuracy": "validation accuracy",
    "val/loss": "validation loss",
    "val/gap": "gap to the minimum",
    "val/distance": "distance to the minimum",
    "test/perplexity": "test perplexity",
    "val/perplexity": "validation perplexity",
    "test/bits_per_character": "test bits per character",
    "val/bits_per_character": "validation bits per character",
    "train/epoch_loss": "training loss, last epoch",
}


def print_summary(
    trainer: Trainer, module: LightningModule, name: str, seconds: float, metrics: Mapping[str, Tensor]
) -> None:
    """Print what came out of a fit: metrics, gradients by layer, learning rate, time, and where to look."""
    console = Console(soft_wrap=True)
    console.print()
    console.print(_results(trainer, module, name, seconds, {key: float(value) for key, value in metrics.items()}))
    flow = _gradient_flow(trainer)
    if flow is not None:
        console.print(flow)
    print_places(trainer)


def print_places(trainer: Trainer) -> None:
    """Print where the run's files are."""
    for line in _places(trainer):
        Console(soft_wrap=True).print(line, highlight=False)


def print_evaluation(trainer: Trainer, command: str) -> None:
    """Print the metrics of a validation or test."""
    table = Table(title=command, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, value in sorted(trainer.callback_metrics.items()):
        table.add_row(key, _metric(key, float(value)))
    Console(soft_wrap=True).print(table)


def _results(trainer: Trainer, module: LightningModule, name: str, seconds: float, metrics: dict[str, float]) -> Table:
    table = Table(title=name, title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for key in [key for key in LABELS if key in metrics] or sorted(metrics):
        table.add_row(LABELS.get(key, key), _metric(key, metrics[key]))
    for optimizer in trainer.optimizers:
        rates = dict.fromkeys(f"{group['lr']:.3g}" for group in optimizer.param_groups)
        algorithms = dict.fromkeys(group["algorithm"] for group in optimizer.param_groups if "algorithm" in group)
        table.add_row("optimizer", ", ".join(algorithms) or type(optimizer).__name__)
        table.add_row("learning rate, at the end", ", ".join(rates))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    table.add_row("parameters", f"{parameters:,}")
    table.add_row("steps, epochs", f"{trainer.global_step:,}, {trainer.current_epoch}")
    table.add_row("time", f"{seconds:.1f} s")
    return table


def _gradient_flow(trainer: Trainer) -> Table | None:
    monitor = next((callback for callback in _callbacks(trainer) if isinstance(callback, GradientFlowMonitor)), None)
    flow = monitor.summary() if monitor is not None else None
    if monitor is None or flow is None:
        return None
    table = Table(title=f"gradient flow at step {monitor.history.steps[-1]}", title_justify="left")
    table.add_column("parameter")
    for header in ("gradient norm", "weight norm", "update / weight"):
        table.add_column(header, justify="right")
    ratios = flow.update_ratios or [None] * len(flow.names)
    rows = list(zip(flow.names, flow.gradient_norms, flow.weight_norms, ratios, strict=True))
    # A deep network's table would push the results off the screen; all of it is in gradient_flow.json and the figures.
    hidden = len(rows) - MOST_ROWS
    cells = [
        (name, f"{gradient_norm:.3g}", f"{weight_norm:.3g}", "" if ratio is None else f"{ratio:.1e}")
        for name, gradient_norm, weight_norm, ratio in rows
    ]
    if hidden > 0:
        cells[MOST_ROWS // 2 : -MOST_ROWS // 2] = [(f"... {hidden} more ...", "", "", "")]
    for row in cells:
        table.add_row(*row)
    table.caption = f"max/min ratio over layers {flow.max_min_ratio:.3g}: {flow.verdict(monitor.ratio_warning)}"
    table.caption_justify = "left"
    return table


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]


def _places(trainer: Trainer) -> list[str]:
    folder = trainer.log_dir
    if folder is None:
        return []
    lines = [f"run folder   {folder}"]
    figures = sorted(Path(folder).glob("figures/*.png"))
    lines += [f"{'figure' if index == 0 else '':<12} {path}" for index, path in enumerate(figures)]
    if trainer.loggers:
        lines.append(f"TensorBoard  tensorboard --logdir {Path(folder).parent.parent}")
    return lines


def _metric(key: str, value: float) -> str:
    if key.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    # What goes to zero is small in the end.
    return f"{value:.3g}" if key.endswith(("/gap", "/distance")) else f"{value:.4f}"
