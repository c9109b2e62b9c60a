"""Leave out what Lightning prints at every run and nobody acts on."""

import logging
import warnings

_NOISE = (
    "Loading `train_dataloader` to estimate",
    "`weights_only` was not set",
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
    for message in (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*was deprecated in v4.*", module="lightning.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*jsonargparse.*")


def _is_not_noise(record: logging.LogRecord) -> bool:
    message = record.getMessage().strip()
    return bool(message) and not message.startswith(_NOISE)
