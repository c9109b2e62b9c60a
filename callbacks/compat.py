"""What callbacks use of Lightning and of PyTorch's loaders that they do not promise to keep, in one place.

All of it holds for Lightning 2.6 and PyTorch 2.9 to 2.15. `tests/callbacks/test_compat.py` says what has changed when
it no longer does.
"""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader


def combined_loader(trainer: Trainer) -> CombinedLoader | None:
    """The object that draws the batches of a fit and knows its place in them, or None before there is one.

    Public is only what it was made from: `trainer.train_dataloader`.
    """
    return trainer.fit_loop._combined_loader


def fetcher(trainer: Trainer) -> Any:
    """The iterator of a fit's batches, or None before there is one; `iter` of it starts the loaders anew.

    No public attribute leads to it.
    """
    return trainer.fit_loop._data_fetcher


def make_loader_anew(trainer: Trainer) -> None:
    """Have the fit make its loader and fetcher again, as at its start.

    `setup_data` alone, which is public, leaves a loader that is there already.
    """
    trainer.fit_loop._combined_loader = None
    trainer.fit_loop.setup_data()


def part_from_workers(loader: Any) -> None:
    """Have a loader with persistent workers start others when it is next drawn from; PyTorch has no public way to."""
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator = None


def before_transfer(module: LightningModule, batch: Any) -> Any:
    """A batch after the hook `on_before_batch_transfer`, of the data module where that has one, else of the module.

    The hooks are public, the choice between the two is not.
    """
    return module._on_before_batch_transfer(batch, dataloader_idx=0)
