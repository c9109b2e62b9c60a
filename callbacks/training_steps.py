"""Training steps of a LightningModule outside of Lightning's loop, as the loop would take them."""

import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

from steepest.callbacks.compat import before_transfer, combined_loader, fetcher, make_loader_anew, part_from_workers
from steepest.callbacks.probe import logging_muted
from steepest.common.seeds import mix, seed_all
from steepest.diagnostics.common.guards import hooks_removed
from steepest.diagnostics.common.snapshot import Snapshot, restored

MOST_ATTEMPTS = 50  # a loss scaler that starts at 2^16 takes a few, one that never finds a scale takes no end
LEFT_ALONE = (Trainer, LightningDataModule, Callback, Logger)


@contextmanager
def off_the_record(trainer: Trainer, pl_module: LightningModule) -> Iterator[Snapshot]:
    """Train inside as you like: on exit everything is as it was, to the bit, and nobody has heard of it.

    Restored are the module, its optimizers, schedules, the loss scaler and all random generators. Other callbacks and
    the loggers are off.

    Yields:
        The snapshot, to go back to the start in between.
    """
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    roots = (pl_module, *trainer.optimizers, *schedulers, trainer.precision_plugin)
    callbacks, loggers = trainer.callbacks, trainer.loggers  # type: ignore[attr-defined]
    with logging_muted(pl_module), restored(*roots, leave=LEFT_ALONE) as snapshot:
        try:
            trainer.callbacks = []  # type: ignore[attr-defined]
            trainer.loggers = [DummyLogger()] if loggers else []
            yield snapshot
        finally:
            trainer.callbacks, trainer.loggers = callbacks, loggers  # type: ignore[attr-defined]


@contextmanager
def training_batches(trainer: Trainer, seed: int) -> Iterator[Callable[[], Any]]:
    """The batches that a training of this seed sees from here on, without end, on this rank.

    The loader is made as the fit made its own; where both are one object, its place is restored on exit.

    Yields:
        A function that returns the next batch, as the loader gives it.
    """
    loop = trainer.fit_loop
    kept = dict(vars(loop))
    combined = combined_loader(trainer)
    loaders = combined.flattened if combined is not None else []
    place = Snapshot(combined, *loaders, leave=LEFT_ALONE, tensors=False)
    environment = os.environ.get("PL_GLOBAL_SEED")
    for loader in loaders:
        part_from_workers(loader)  # they belong to the fit
    try:
        os.environ["PL_GLOBAL_SEED"] = str(seed)
        seed_all(mix(seed, trainer.current_epoch, -1, -1), trainer.strategy.root_device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # given once when the fit made its loader
            make_loader_anew(trainer)
        batches = fetcher(trainer)

        def next_batch() -> Any:
            try:
                return next(batches)[0]
            except StopIteration:
                iter(batches)
                return next(batches)[0]

        try:
            yield next_batch
        finally:
            batches.teardown()
    finally:
        if environment is None:
            os.environ.pop("PL_GLOBAL_SEED", None)
        else:
            os.environ["PL_GLOBAL_SEED"] = environment
        vars(loop).clear()
        vars(loop).update(kept)
        place.restore()


class TrainingSteps:
    """Takes one optimizer step at every call, by the module's own hooks and under the trainer's options.

    Accumulation, precision, clipping, and the reduction of gradients over ranks are those of the training; so are
    optimizers that evaluate the batch several times. Under manual optimization `training_step` is called until an
    optimizer has stepped, and must return the loss. Hooks of a training batch (`on_train_batch_start` and its kin) are
    not called.

    Args:
        trainer: The trainer, in a fit.
        pl_module: Its module.
        next_batch: Returns the next batch of this rank.
        seed: Of dropout and other draws, which depend on it, the batch and the rank.
        before_step: Called right before every update: it can set what a step of the module's own changed.

    Raises:
        ValueError: if the module cannot be trained in this way; the message says why.
    """

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        next_batch: Callable[[], Any],
        seed: int,
        before_step: Callable[[], None],
    ) -> None:
        name = type(pl_module).__name__
        if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            raise ValueError(
                f"{name}.training_step fetches its own batches, so its steps cannot be taken outside of the training"
            )
        self.trainer = trainer
        self.pl_module = pl_module
        self._next_batch = next_batch
        self._seed = seed
        self._before_step = before_step
        self._takes_index = is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2)
        self._micro_batches = _accumulated(trainer)
        self._index = 0
        self._updates = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Watch the optimizers; calls are possible inside only."""

        def before(*_: Any) -> None:
            self._before_step()

        def after(*_: Any) -> None:
            self._updates += 1

        with ExitStack() as stack:
            for optimizer in self.trainer.optimizers:
                hooks = optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)
                stack.enter_context(hooks_removed(hooks))
            yield

    def __call__(self) -> float | None:
        """Take a step; return the mean loss over ranks and micro-batches at the weights before it, None for no step."""
        losses: list[Tensor] = []
        updates = self._updates
        for _ in range(MOST_ATTEMPTS):
            if self.pl_module.automatic_optimization:
                losses = self._automatic()
            else:
                losses += self._manual()
            loss = self._mean(losses)
            # A loss scaler leaves out updates by gradients that overflowed.
            if self._updates > updates or not math.isfinite(loss):
                return loss
        return None

    def _automatic(self) -> list[Tensor]:
        module = self.pl_module
        optimizer: Any = module.optimizers()
        indices = range(self._index, self._index + self._micro_batches)
        batches = [self._to_device(self._next_batch()) for _ in indices]
        self._index += self._micro_batches
        first: list[Tensor] = []

        @torch.enable_grad()
        def evaluate() -> Tensor | None:
            losses = []
            for index, batch in zip(indices, batches, strict=True):
                # Only the last backward pass of an update has ranks add up their gradients.
                last = index == indices[-1]
                strategy = self.trainer.strategy
                waits = nullcontext() if last or not isinstance(strategy, ParallelStrategy) else None
                with strategy.block_backward_sync() if waits is None else waits:  # type: ignore[attr-defined]
                    loss = self._loss(batch, index)
                    if index == indices[0]:
                        module.on_before_zero_grad(optimizer.optimizer)
                        module.optimizer_zero_grad(self.trainer.current_epoch, index, optimizer.optimizer)
                    if loss is not None:
                        strategy.backward(loss / len(indices), optimizer.optimizer)
                        losses.append(loss.detach())
            if not first:
                first.extend(losses)
            return torch.stack(losses).mean() if losses else None

        module.optimizer_step(self.trainer.current_epoch, indices[-1], optimizer, evaluate)
        return first

    def _manual(self) -> list[Tensor]:
        self._index += 1
        with torch.enable_grad():
            loss = self._loss(self._to_device(self._next_batch()), self._index - 1)
        if loss is None:
            raise ValueError(
                f"{type(self.pl_module).__name__} optimizes manually and its training_step returns no loss: let it "
                "return the loss, or {'loss': ...}"
            )
        return [loss.detach()]

    def _loss(self, batch: Any, index: int) -> Tensor | None:
        trainer = self.trainer
        seed_all(mix(self._seed, trainer.current_epoch, index, trainer.global_rank), trainer.strategy.root_device)
        output: Any = trainer.strategy.training_step(*((batch, index) if self._takes_index else (batch,)))
        return output.get("loss") if isinstance(output, dict) else output

    def _to_device(self, batch: Any) -> Any:
        batch = self.trainer.precision_plugin.convert_input(batch)
        batch = before_transfer(self.pl_module, batch)
        return self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def _mean(self, losses: list[Tensor]) -> float:
        device = self.trainer.strategy.root_device
        mean = torch.stack([loss.float().reshape(()) for loss in losses]).mean() if losses else torch.tensor(math.nan)
        if self.trainer.world_size > 1:
            mean = self.trainer.strategy.reduce(mean.to(device), reduce_op="mean")
        return float(mean)


def start_training(trainer: Trainer, pl_module: LightningModule) -> None:
    """What happens between `on_train_start` of callbacks and the first batch: the module's hooks, and train modes."""
    pl_module.on_train_start()
    pl_module.on_train_epoch_start()
    for optimizer in trainer.optimizers:
        switch = getattr(optimizer, "train", None)  # schedule-free optimizers
        if callable(switch) and isinstance(optimizer, Optimizer):
            switch()


def _accumulated(trainer: Trainer) -> int:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            return callback.get_accumulate_grad_batches(trainer.current_epoch)
    return trainer.accumulate_grad_batches
