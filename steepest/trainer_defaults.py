"""Callbacks and loggers that a run has unless it chose others."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelSummary, ProgressBar, RichModelSummary
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from callbacks import StepProgressBar, StepSeed
from callbacks.schedule_free import ScheduleFreeSwitch

# For commands that train nothing.
WITHOUT_A_RUN = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "fast_dev_run": False,
}


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


def _has_modes(optimizer: Any) -> bool:
    """Whether a parsed optimizer is schedule-free: by its name, or a class in it has modes for training and evaluation.

    The class may be the algorithm of `external` or belong to the base of another optimizer.
    """
    if "schedulefree" in str(optimizer).lower().replace("_", ""):
        return True
    entries = optimizer.items() if isinstance(optimizer, Namespace) else ()
    classes = [resolve_name(value) for key, value in entries if key.split(".")[-1] == "class_path"]
    return any(callable(getattr(kind, "train", None)) and callable(getattr(kind, "eval", None)) for kind in classes)


def run_loggers(runs_dir: str, name: str, folder: Path | None) -> list[Any]:
    """TensorBoard and CSV loggers that write into the run folder."""
    # Loggers of ranks other than zero write nothing; they only need some version.
    version = folder.name if folder is not None else "version_0"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory .* exists")
        csv_logger = CSVLogger(runs_dir, name=name, version=version)
    return [TensorBoardLogger(runs_dir, name=name, version=version, default_hp_metric=False), csv_logger]


def _has(callbacks: Sequence[Any], kind: type) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)
