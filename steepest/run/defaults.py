"""What a run has unless it chose others: callbacks, loggers, and quiet where Lightning only advertises or advises."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelSummary, ProgressBar, RichModelSummary
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from steepest.callbacks.progress_bar import StepProgressBar
from steepest.callbacks.schedule_free import ScheduleFreeSwitch
from steepest.callbacks.step_seed import StepSeed

# For commands that train nothing.
WITHOUT_A_RUN = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "fast_dev_run": False,
}

_NOISE = (
    "Loading `train_dataloader` to estimate",
    "`weights_only` was not set",
    "Trainer already configured with model summary",
    "Using bfloat16 Automatic Mixed Precision",
    "GPU available",
    "TPU available",
    "HPU available",
    "💡",
    "Tip:",
    "`Trainer.fit` stopped",
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "Loaded model weights from the checkpoint",
    "Seed set to",
    "`Trainer(limit_",
    "Detected KeyboardInterrupt",
    "[rank:",
    "Initializing distributed",
    "-----",
    "distributed_backend=",
    "All distributed processes registered",
)


def completed_callbacks(options: dict[str, Any], optimizer: Any = None) -> list[Callback]:
    """Take the callbacks out of the trainer's options, and add what every run, or one with this optimizer, has."""
    callbacks = options.pop("callbacks") or []
    callbacks = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    if options.get("enable_checkpointing") is False or options.get("fast_dev_run"):
        callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    if options.get("enable_progress_bar") is not False and not _has(callbacks, ProgressBar):
        callbacks.append(StepProgressBar())
    if options.get("enable_model_summary") is not False and not _has(callbacks, ModelSummary):
        callbacks.append(RichModelSummary(max_depth=2))
    if not _has(callbacks, StepSeed):
        callbacks.append(StepSeed())
    if _has_modes(optimizer) and not _has(callbacks, ScheduleFreeSwitch):
        callbacks.append(ScheduleFreeSwitch())
    return callbacks


def run_loggers(runs_dir: str, name: str, folder: Path | None) -> list[Any]:
    """TensorBoard and CSV loggers that write into the run folder."""
    # Loggers of ranks other than zero write nothing; they only need some version.
    version = folder.name if folder is not None else "version_0"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory .* exists")
        csv_logger = CSVLogger(runs_dir, name=name, version=version)
    return [TensorBoardLogger(runs_dir, name=name, version=version, default_hp_metric=False), csv_logger]


def quiet() -> None:
    """Filter the product tips, device listings and advice that do not apply to our loaders."""
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "lightning.fabric.utilities.distributed",
        "lightning.pytorch.accelerators.cuda",
        "lightning.pytorch.trainer.connectors.checkpoint_connector",
    ):
        logging.getLogger(name).addFilter(_is_not_noise)
    warnings.formatwarning = _one_line
    for message in (
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*in eval mode at the start of training.*",
        ".*but have no `val_dataloader`.*",  # validation_size 0 says so
        ".*AMP with fp16 is not supported on CPU.*",  # refused, see `check_precision`
    ):
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*was deprecated in v4.*", module="lightning.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*jsonargparse.*")


def _has_modes(optimizer: Any) -> bool:
    """Whether a parsed optimizer is schedule-free: by its name, or a class in it has modes for training and evaluation.

    The class may be the algorithm of `external` or belong to the base of another optimizer.
    """
    if "schedulefree" in str(optimizer).lower().replace("_", ""):
        return True
    entries = optimizer.items() if isinstance(optimizer, Namespace) else ()
    classes = [resolve_name(value) for key, value in entries if key.split(".")[-1] == "class_path"]
    return any(callable(getattr(kind, "train", None)) and callable(getattr(kind, "eval", None)) for kind in classes)


def _has(callbacks: Sequence[Any], kind: type) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


def _is_not_noise(record: logging.LogRecord) -> bool:
    message = record.getMessage().strip()
    return bool(message) and not message.startswith(_NOISE)


def _one_line(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    # Where in the library a warning was raised helps nobody at the command line.
    return f"steepest: warning: {' '.join(str(message).split())}\n"
