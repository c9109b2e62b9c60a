"""What a run leaves behind besides its logs: config.yaml, run.json, and what its optimizer does with each parameter."""

import json
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from steepest import __version__
from steepest.common.atomic import replacing
from steepest.optim.core.grouping import ParameterRow, explain

_PACKAGES = ("torch", "lightning", "torchvision", "torchmetrics", "jsonargparse", "numpy")
EXPLAINED = ("parameter", "shape", "role", "group", "algorithm", "learning rate", "decay", "reason")


class RunRecord(SaveConfigCallback):
    """Writes the resolved config and a record of the run, and keeps the record true until the run ends.

    `run.json` holds the command, versions, git commit, seed, devices, start, duration, status ("running", "finished",
    "failed" or "interrupted"), final metrics, and the checkpoint this run continues, if any.

    Args:
        parser: The parser of the command, as LightningCLI passes it.
        config: The resolved options of the command.
        words: The command and its options, as typed.
        parent: Checkpoint that this run continues, or None.
        chosen: Model, data, optimizer, schedules, clipping and seed as plain values: kept in every checkpoint, and
            flattened for TensorBoard's HPARAMS page.
    """

    def __init__(
        self,
        parser: Any,
        config: Any,
        words: Sequence[str] = ("fit",),
        parent: dict[str, Any] | None = None,
        chosen: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(parser, config, **kwargs)
        self.words = words
        self.parent = parent
        self.chosen = chosen or {}
        self.record: dict[str, Any] = {}
        self.started = False
        self._start_time = time.monotonic()

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the first version of run.json; runs on rank zero."""
        self.record = {
            "command": shlex.join(["steepest", *self.words]),
            "status": "running",
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
            "parent": self.parent,
            "devices": {
                "accelerator": type(trainer.accelerator).__name__.removesuffix("Accelerator").lower(),
                "names": _device_names(trainer),
                "world_size": trainer.world_size,
                "precision": trainer.precision,
            },
            "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
            "git_commit": git_commit(),
            "versions": versions(),
            "metrics": {},
        }
        self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put what was chosen into the checkpoint, so that a command that loads it can compare."""
        folder = trainer.log_dir
        config = str(Path(folder) / self.config_filename) if folder is not None else None
        checkpoint["steepest"] = {"chosen": self.chosen, "config": config}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say in TensorBoard which parameter gets what from the optimizer."""
        if trainer.is_global_zero:
            write_explanation(trainer)

    def on_train_batch_start(self, trainer: Trainer, *arguments: Any) -> None:
        """From here on the run has something to keep."""
        self.started = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the final metrics."""
        self._note_metrics(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the test metrics."""
        self.started = True
        self._note_metrics(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the validation metrics."""
        self._note_metrics(trainer)

    def finish(self, trainer: Trainer, status: str, error: str | None = None) -> None:
        """Write the last version of run.json and the row of TensorBoard's HPARAMS page, on rank zero."""
        if not self.record:
            return
        self.record["status"] = status
        if error is not None:
            self.record["error"] = error
        self._write(trainer)
        if status == "finished" and self.words[0] == "fit":
            metrics = {f"final/{name}": value for name, value in self.record["metrics"].items()}
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger) and metrics:
                    logger.log_hyperparams(_flat(self.chosen), metrics, step=trainer.global_step)
                    logger.save()

    @property
    def seconds(self) -> float:
        """Wall time since the command built its callbacks."""
        return time.monotonic() - self._start_time

    def _note_metrics(self, trainer: Trainer) -> None:
        if self.record and not trainer.sanity_checking:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.record["metrics"].update(metrics)

    def _write(self, trainer: Trainer) -> None:
        folder = trainer.log_dir
        if folder is None:
            return
        self.record["seconds"] = round(self.seconds, 3)
        self.record["global_step"] = trainer.global_step
        self.record["epochs"] = trainer.current_epoch
        text = json.dumps(self.record, indent=2, allow_nan=True) + "\n"
        with replacing(Path(folder) / "run.json") as partial:
            partial.write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    packages = {package: metadata.version(package) for package in _PACKAGES}
    return {"steepest": __version__, "python": platform.python_version(), **packages}


def git_commit() -> str | None:
    """The commit that is checked out where the command runs, or None."""
    # The working folder's repository: for a clone that is this project, for a user's own project theirs.
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return result or None


def cells(row: ParameterRow) -> list[str]:
    """One row of the table as text."""
    shape = "x".join(map(str, row.shape)) or "scalar"
    rates = (f"{row.learning_rate:g}", f"{row.decay:g}")
    return [row.name, shape, row.role, row.group, row.algorithm, *rates, row.reason]


def write_explanation(trainer: Trainer) -> None:
    """Write the table of each optimizer of a fit to TensorBoard as text, under "optimizer", "optimizer_2" and so on."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    for number, optimizer in enumerate(trainer.optimizers if loggers else [], start=1):
        head = [EXPLAINED, ["---"] * len(EXPLAINED)]
        rows = [*head, *(cells(row) for row in explain(trainer.lightning_module, optimizer))]
        # A bar inside a cell would end it.
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        for logger in loggers:
            logger.experiment.add_text(
                "optimizer" if number == 1 else f"optimizer_{number}", text, global_step=trainer.global_step
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key == "class_path" and isinstance(value, str):
            flat[prefix.removesuffix("/") or key] = value.rsplit(".", 1)[-1]
        elif isinstance(value, dict):
            flat |= _flat(value, prefix if key == "init_args" else f"{prefix}{key}/")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat


def _device_names(trainer: Trainer) -> list[str]:
    if trainer.strategy.root_device.type == "cuda":
        return [torch.cuda.get_device_name(index) for index in trainer.device_ids]
    return [platform.processor() or platform.machine()]
