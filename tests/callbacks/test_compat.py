"""What `callbacks/compat.py` relies on: each test fails with a line that says what Lightning changed."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader

from steepest.callbacks import compat


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ModuleWithHook(Module):
    def on_before_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        return batch + 1


class Data(LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.arange(4.0).reshape(4, 1), batch_size=1)  # type: ignore[arg-type]


class DataWithHook(Data):
    def on_before_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        return batch + 10


class Look(Callback):
    """Does something at the first batch."""

    def __init__(self, look: Any) -> None:
        self.look = look
        self.seen: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.seen = self.look(trainer, pl_module)


def seen_in_a_fit(look: Any, module: LightningModule | None = None, data: LightningDataModule | None = None) -> Any:
    callback = Look(look)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module or Module(), datamodule=data or Data())
    return callback.seen


def test_combined_loader():
    loader, given = seen_in_a_fit(lambda trainer, _: (compat.combined_loader(trainer), trainer.train_dataloader))
    assert isinstance(loader, CombinedLoader), "fit_loop._combined_loader is something else: see compat.combined_loader"
    assert loader.flattened == [given], "a CombinedLoader lists its loaders elsewhere: see compat.combined_loader"


def test_fetcher_starts_anew():
    def look(trainer: Trainer, _: Any) -> list[float]:
        batches: Iterator = compat.fetcher(trainer)
        ahead = float(next(batches)[0])
        iter(batches)
        return [ahead, float(next(batches)[0])]

    found = seen_in_a_fit(look)
    assert found == [1.0, 0.0], "fit_loop._data_fetcher gives batches in another way: see compat.fetcher"


def test_loader_is_made_anew():
    def look(trainer: Trainer, _: Any) -> tuple[Any, ...]:
        before = compat.combined_loader(trainer), compat.fetcher(trainer)
        compat.make_loader_anew(trainer)
        after = compat.combined_loader(trainer), compat.fetcher(trainer)
        return *(old is not new for old, new in zip(before, after, strict=True)), float(next(after[1])[0])

    found = seen_in_a_fit(look)
    assert found == (True, True, 0.0), "fit_loop.setup_data keeps or leaves loaders: see compat.make_loader_anew"


def test_workers_are_left_behind():
    loader = DataLoader(torch.arange(4.0), batch_size=1, num_workers=1, persistent_workers=True)  # type: ignore[arg-type]
    iterator = iter(loader)
    compat.part_from_workers(loader)
    other = iter(loader)
    assert other is not iterator, "DataLoader keeps persistent workers elsewhere: see compat.part_from_workers"
    assert iter(loader) is other


def test_hook_before_the_transfer():
    def look(_: Any, module: LightningModule) -> float:
        return float(compat.before_transfer(module, torch.zeros(1)))

    changed = "LightningModule._on_before_batch_transfer chooses another hook: see compat.before_transfer"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You have overridden `on_before_batch_transfer`")
        assert seen_in_a_fit(look, ModuleWithHook()) == 1.0, changed
        assert seen_in_a_fit(look, data=DataWithHook()) == 10.0, changed
