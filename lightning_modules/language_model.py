"""Language modelling: any network that predicts the next token."""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric

from steepest.lightning_modules.base import BaseModule
from steepest.lightning_modules.generation import generate
from steepest.optim import ClippingFactory, OptimizerFactory, OptionSchedule, ScheduleFactory

SAMPLE_TEMPERATURE, SAMPLE_TOP_K = 0.8, 200  # nanoGPT's sample.py


class LanguageModel(BaseModule):
    """Cross-entropy training of any network that maps tokens to scores of the next token.

    Besides the loss in nats per token it logs the perplexity, exp(loss), in evaluation also bits per character, and the
    tokens trained on per second by all processes, without the time of validations. Each validation ends with a sample
    of what the network writes, shown by TensorBoard as text.

    Checkpoints hold the description of the tokens (`tokenizer.description()` of the DataModule, if it has one), so
    that `steepest sample` needs no data, and a checkpoint is refused with data whose tokens mean something else.

    Args:
        network: Any `nn.Module` from tokens (batch, length) to scores (batch, length, vocabulary); ours or by import
            path. On the command line `vocabulary_size` and `block_size` are taken from the data where the network has
            such arguments.
        sample_length: Tokens of the sample after each validation; 0 for none.
        compile: Compile the network with torch.compile: True for its default backend, or a backend's name.
        optimizer: Factory from the registry; None takes AdamW.
        schedule: Learning-rate schedule from the registry; None keeps the rate constant.
        clipping: Gradient clipping from the registry; None for none.
        option_schedules: Schedules of other options of the optimizer, such as momentum, by option.

    Raises:
        ValueError: if `sample_length` is below 0.
    """

    def __init__(
        self,
        network: nn.Module,
        sample_length: int = 200,
        compile: bool | str = False,
        optimizer: OptimizerFactory | None = None,
        schedule: ScheduleFactory | None = None,
        clipping: ClippingFactory | None = None,
        option_schedules: Mapping[str, OptionSchedule] | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, clipping, option_schedules)
        if sample_length < 0:
            raise ValueError(f"sample_length must be at least 0, got {sample_length}")
        self.save_hyperparameters(ignore=["network", "optimizer", "schedule", "clipping", "option_schedules"])
        self.network = network
        self.sample_length = sample_length
        self.metrics = {stage: {"loss": MeanMetric(), "perplexity": Perplexity()} for stage in ("val", "test")}
        self._tokens = 0
        self._since = self._paused = time.perf_counter()
        if compile:
            # In place: names in the state_dict stay, and diagnostics still find the eager modules.
            network.compile(**({"backend": compile} if isinstance(compile, str) else {}))

    @property
    def block_size(self) -> int | None:
        """Longest sequence that the network says it takes."""
        return getattr(self.network, "block_size", None)

    @property
    def _tokenizer(self) -> Any:
        data = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        return getattr(data, "tokenizer", None)

    def setup(self, stage: str) -> None:
        """Take from the data how long a sequence is, for the model summary, and how many characters a token has."""
        data = getattr(self.trainer, "datamodule", None)
        length = getattr(data, "block_size", None)
        if length is not None:
            self.example_input_array = torch.zeros(1, length, dtype=torch.long)
        characters_per_token = getattr(data, "characters_per_token", None)
        if characters_per_token is not None:
            for name, split in (("val", "validation"), ("test", "test")):
                self.metrics[name]["bits_per_character"] = BitsPerCharacter(characters_per_token(split))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, length) to scores of the next token (batch, length, vocabulary)."""
        return self.network(tokens)

    def diagnostic_loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The training loss on a batch, a scalar, without recording anything."""
        inputs, targets = batch
        return functional.cross_entropy(self(inputs).flatten(0, 1), targets.flatten())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch; records it."""
        loss = self.diagnostic_loss(batch)
        self._tokens += batch[1].numel()
        self.record(loss=loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Update the metrics over the validation split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Update the metrics over the test split."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Loss at every place, (batch, length): how surprising each token was; 0 where it is not a target."""
        inputs, targets = batch
        scores = self(inputs).transpose(1, 2)
        return {"loss": functional.cross_entropy(scores, targets, reduction="none")}

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        loss, count = self.diagnostic_loss(batch), (batch[1] >= 0).sum()
        for metric in self.metrics[stage].values():
            metric.update(loss, weight=count)

    def sample(self, tokens: Tensor, length: int, **options: Any) -> Tensor:
        """Continue sequences by `length` tokens, see `generate`."""
        return generate(self.network, tokens, length, block_size=self.block_size, **options)

    def on_validation_epoch_end(self) -> None:
        """Write the metrics and a sample of text."""
        super().on_validation_epoch_end()
        tokenizer = self._tokenizer
        if self.trainer.sanity_checking or tokenizer is None or not self.sample_length:
            return
        # A generator of its own, the same in every validation: training's randomness stays as it is, and samples differ
        # by the weights alone. All ranks draw, as strategies may gather weights for it; the first one writes.
        generator = torch.Generator(self.device).manual_seed(0)
        start = torch.full((1, 1), tokenizer.start, device=self.device)
        options = {"temperature": SAMPLE_TEMPERATURE, "top_k": SAMPLE_TOP_K}
        drawn = self.sample(
            start, self.sample_length, vocabulary_size=tokenizer.vocabulary_size, generator=generator, **options
        )
        text = tokenizer.decode(drawn[0, 1:].tolist())
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and self.trainer.is_global_zero:
                # Indented, which Markdown shows as it is, with its line ends.
                shown = "".join(f"    {line}\n" for line in text.split("\n"))
                logger.experiment.add_text("sample", shown, self.trainer.global_step)

    def on_train_start(self) -> None:
        """Start the clock."""
        self._tokens, self._since = 0, time.perf_counter()

    def on_validation_start(self) -> None:
        """Stop the clock of training."""
        self._paused = time.perf_counter()

    def on_validation_end(self) -> None:
        """Let the clock of training go on."""
        self._since += time.perf_counter() - self._paused

    def derived_scalars(self, means: Mapping[str, float]) -> dict[str, float]:
        """Perplexity and speed since the last record."""
        # Behind the transfer of the means to the host, which waits for all steps: the time is that of finished work.
        now = time.perf_counter()
        tokens, seconds = self._tokens * self.trainer.world_size, now - self._since
        self._tokens, self._since = 0, now
        derived = {"perplexity": _exp(means["loss"])} if "loss" in means else {}
        # After a resume the first record also holds steps of the run before, whose time is not known.
        return {**derived, "tokens_per_second": tokens / seconds} if tokens else derived

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also keep what the tokens are."""
        super().on_save_checkpoint(checkpoint)
        if self._tokenizer is not None:
            checkpoint["tokenizer"] = self._tokenizer.description()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose tokens are not those of the data."""
        super().on_load_checkpoint(checkpoint)
        stored, here = checkpoint.get("tokenizer"), self._tokenizer
        if stored is not None and here is not None and stored != here.description():
            raise ValueError(_other_tokens(stored, here.description()))


class Perplexity(MeanMetric):
    """exp of the mean loss: how many tokens the next one might equally well be."""

    def compute(self) -> Tensor:
        """Perplexity over all updates."""
        return super().compute().exp()


class BitsPerCharacter(MeanMetric):
    """The mean loss in bits per character of the text instead of nats per token: comparable between encodings.

    Args:
        characters_per_token: Mean number of characters that a token stands for.
    """

    def __init__(self, characters_per_token: float) -> None:
        super().__init__()
        self.characters_per_token = characters_per_token

    def compute(self) -> Tensor:
        """Bits per character over all updates."""
        return super().compute() / (math.log(2) * self.characters_per_token)


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf  # math.exp raises where it overflows


def _other_tokens(stored: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    if stored["encoding"] != here["encoding"]:
        return f"the checkpoint's tokens are {stored['encoding']}, the data's are {here['encoding']}"
    before, now = set(stored.get("characters", "")), set(here.get("characters", ""))
    parts = []
    if before - now:
        parts.append(f"the data lacks {''.join(sorted(before - now))!r}")
    if now - before:
        parts.append(f"the checkpoint lacks {''.join(sorted(now - before))!r}")
    return (
        f"the checkpoint's vocabulary of {len(before)} characters is not the data's of {len(now)}: "
        f"{' and '.join(parts)}; use the text it was trained on"
    )
