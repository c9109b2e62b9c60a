"""The switch of schedule-free optimizers between training and everything else."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class ScheduleFreeSwitch(Callback):
    """Puts the averaged weights of schedule-free optimizers in place wherever weights are used or kept.

    That is in validation, the sanity check included, in checkpoints, after an exception and at the end of the fit; each
    training batch goes on from the point between (arXiv 2405.15682). A checkpoint holds the average, and a run resumed
    from it goes on like the one that wrote it. Other optimizers are left alone. Statistics of BatchNorm stay those of
    the training point. A checkpoint of weights only, which calls no callback, holds the training point.

    The command line adds it to runs of such optimizers by itself.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Go to the point where gradients are taken."""
        for optimizer in _switchable(trainer):
            optimizer.train()  # pyright: ignore[reportAttributeAccessIssue] - nothing happens if it is there

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in place."""
        _evaluate(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in place."""
        _evaluate(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the average in place."""
        _evaluate(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average into the checkpoint."""
        training = [optimizer for optimizer in _switchable(trainer) if _is_training(optimizer)]
        if not training:
            return
        _evaluate(trainer)
        # The checkpoint refers to the live weights, which go on.
        checkpoint["state_dict"] = {
            name: value.clone() if hasattr(value, "clone") else value
            for name, value in checkpoint["state_dict"].items()
        }
        for state in checkpoint.get("optimizer_states", ()):
            for group in state["param_groups"]:
                if "train_mode" in group:
                    group["train_mode"] = False
        for optimizer in training:
            optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]


def _switchable(trainer: Trainer) -> list[Optimizer]:
    return [
        optimizer
        for optimizer in trainer.optimizers
        if callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))
    ]


def _is_training(optimizer: Optimizer) -> bool:
    return any(group.get("train_mode", False) for group in optimizer.param_groups)


def _evaluate(trainer: Trainer) -> None:
    for optimizer in _switchable(trainer):
        optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]
