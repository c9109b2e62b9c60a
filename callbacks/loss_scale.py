"""The loss scale that gradients carry under 16-bit precision."""

from lightning.pytorch import Trainer
from torch.optim import Optimizer


def loss_scale(trainer: Trainer) -> float:
    """What the loss is multiplied by before the backward pass; 1 without a loss scaler."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else scaler.get_scale()


def gradient_scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """What this optimizer's gradients are multiplied by right before its step."""
    # Optimizers that unscale by themselves (fused ones) have not done so yet; for all others Lightning has.
    return loss_scale(trainer) if getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0
