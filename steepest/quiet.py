"""Leave out what Lightning prints at every run and nobody acts on."""

import logging
import warnings

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
        ".*AMP with fp16 is not supported on CPU.*",  # refused, see trainer_options
    ):
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*was deprecated in v4.*", module="lightning.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*jsonargparse.*")


def _is_not_noise(record: logging.LogRecord) -> bool:
    message = record.getMessage().strip()
    return bool(message) and not message.startswith(_NOISE)


def _one_line(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    # Where in the library a warning was raised helps nobody at the command line.
    return f"steepest: warning: {' '.join(str(message).split())}\n"
