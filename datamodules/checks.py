"""What a DataModule checks."""

from lightning import LightningDataModule


def overfits(data: LightningDataModule) -> bool:
    """Whether the trainer repeats the same few batches, under `overfit_batches`."""
    trainer = data.trainer
    return trainer is not None and trainer.overfit_batches > 0  # pyright: ignore[reportAttributeAccessIssue]


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Refuse a value below a minimum."""
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
