"""The shared base of all text data sets: tokens in windows, for models that predict the next one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import lightning
import torch

from steepest.common.run import progress_of, ranks_of, run_seed
from steepest.datamodules.checks import check_at_least, overfits
from steepest.datamodules.loader import BatchSource, TensorLoader
from steepest.datamodules.text_source import read_texts
from steepest.datamodules.token_file import Tokens, keep_tokens, open_tokens
from steepest.datamodules.token_windows import EvaluationWindows, TrainingWindows
from steepest.datamodules.tokenizers import CharacterTokenizer, Encoding, GPT2Tokenizer, Tokenizer

Split = Literal["train", "validation", "test"]


class TextDataModule(lightning.LightningDataModule, ABC):
    """Text as tokens: training windows of a random order, whole validation and test splits, each token once.

    A batch is a pair of inputs and targets, int64 of shape (samples, block_size); targets are the inputs moved on by
    one token, and -100 where nothing is to be predicted (as cross-entropy takes it). An epoch goes through the training
    text once, in windows that start at another place in every epoch. Their order is a function of the seed, the epoch
    and the position in it: it is the same for any number of processes and after a resume, also inside an epoch.

    Args:
        block_size: Length of a window, in tokens, at least 1: what the model sees at once.
        batch_size: Training windows per batch and process, at least 1.
        validation_size: End of the text that is kept for validation, before the test part: a count of tokens, or a
            fraction in [0, 1); 0 for none. Null, the default, is 0.1 where the data has no validation text of its own.
        test_size: End of the text that is kept for testing, in the same way; null is 0.
        seed: Seed of the order; null takes the run's global seed (`seed_everything`), or 0 without one.
        shuffle: Whether each training epoch has a new random order and start. Ignored under `overfit_batches`.
        drop_last: Whether a last, smaller training batch is left out, so that all steps average over equally many.
        evaluation_batch_size: Windows per batch and process in validation, test and prediction. Null takes twice
            `batch_size`, as there is room without gradients.

    Raises:
        ValueError: If a value is out of its range.
    """

    encoding: Encoding = "characters"
    """"characters" makes every different character of the text a token; the text is held in memory. "gpt2" takes
    GPT-2's 50,257 byte pairs; the text is encoded once and kept on disk, see `keep_tokens`."""
    encoding_dir: str | None = None
    """Folder with GPT-2's `encoder.json` and `vocab.bpe`; None takes tiktoken's copy or download."""

    def __init__(
        self,
        block_size: int = 128,
        batch_size: int = 32,
        validation_size: int | float | None = None,
        test_size: int | float | None = None,
        seed: int | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
        evaluation_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_at_least("block_size", block_size, 1)
        check_at_least("batch_size", batch_size, 1)
        if seed is not None:
            check_at_least("seed", seed, 0)
        if evaluation_batch_size is not None:
            check_at_least("evaluation_batch_size", evaluation_batch_size, 1)
        for name, size in (("validation_size", validation_size), ("test_size", test_size)):
            if size is not None and (size < 0 or (isinstance(size, float) and size >= 1)):
                raise ValueError(f"{name} must be a count or a fraction in [0, 1), got {size}")
        self._block_size = block_size
        self.batch_size = batch_size
        self.validation_size = validation_size
        self.test_size = test_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.evaluation_batch_size = 2 * batch_size if evaluation_batch_size is None else evaluation_batch_size
        self._splits: dict[str, Tokens] = {}
        has_validation, _ = self._has("validation"), self._has("test")  # both are checked
        if not has_validation:
            # Lightning leaves validation out where this method is not overridden; an empty loader makes it warn.
            self.val_dataloader = super().val_dataloader

    @abstractmethod
    def sources(self) -> dict[Split, list[Path]]:
        """Return the files of the text by split; of a split that is not there a part of "train" is taken.

        Raises:
            FileNotFoundError: If files are missing.
        """

    def has_own(self, split: Split) -> bool:
        """Whether a split has files of its own; known before the files are there."""
        return split == "train"

    @property
    def block_size(self) -> int:
        """Length of a window, in tokens."""
        return self._block_size

    @property
    def vocabulary_size(self) -> int:
        """Number of different tokens; reads the text if they are its characters."""
        return self.tokenizer.vocabulary_size

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What turns the text into tokens and back."""
        if self.encoding == "gpt2":
            return GPT2Tokenizer(self.encoding_dir)
        files = [file for files in self.sources().values() for file in files]
        return CharacterTokenizer(self._text(files))

    def prepare_data(self) -> None:
        """Encode the text if that was not done before; one process per machine does this.

        Raises:
            FileNotFoundError: If files are missing.
            OSError: If GPT-2's vocabulary cannot be downloaded, or the tokens cannot be written anywhere.
            ValueError: If a file is damaged.
        """
        if isinstance(self.tokenizer, GPT2Tokenizer):
            self.tokenizer.load()
            for files in self.sources().values():
                keep_tokens(_name(files), files, self.tokenizer)

    def setup(self, stage: str | None = None) -> None:
        """Load the tokens and split them."""
        if self._splits:
            return
        found = {split: self._load(files) for split, files in self.sources().items()}
        whole = found["train"]
        validation, test = (self._share(split, len(whole.values)) for split in ("validation", "test"))
        end = len(whole.values)
        # Rounded such that 0.1 gives nanoGPT's split, int(0.9 * n).
        bounds = [int(end - validation - test), int(end - test), end]
        if bounds[0] < 1:
            raise ValueError(
                f"validation_size {self.validation_size} and test_size {self.test_size} leave no training text of "
                f"{end} tokens"
            )
        parts = dict(zip(("train", "validation", "test"), torch.tensor_split(whole.values, bounds[:2]), strict=True))
        for split, values in parts.items():
            own = found.get(split) if split != "train" else None
            self._splits[split] = own or Tokens(values, round(len(values) * whole.characters / end))

    def characters_per_token(self, split: Split) -> float:
        """How many characters a token of a split stands for, on average; 1 if tokens are characters."""
        tokens = self._tokens(split)
        return tokens.characters / max(len(tokens.values), 1)

    def train_dataloader(self) -> TensorLoader:
        """Return the training batches."""
        shuffle = self.shuffle and not overfits(self)
        windows = TrainingWindows(self._tokens("train").values, self.block_size, shuffle, "the training text")
        return self._loader(
            windows, self.batch_size, shuffle=shuffle, drop_last=self.drop_last, progress=progress_of(self.trainer)
        )

    def val_dataloader(self) -> TensorLoader:
        """Return the validation batches."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> TensorLoader:
        """Return the test batches."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> TensorLoader:
        """Return the test batches again."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: Split) -> TensorLoader:
        if not self._has(split):
            raise ValueError(f"{type(self).__name__} has no {split} text: set {split}_size")
        windows = EvaluationWindows(self._tokens(split).values, self.block_size, f"the {split} text")
        return self._loader(windows, self.evaluation_batch_size)

    def _loader(self, windows: BatchSource, batch_size: int, **options: object) -> TensorLoader:
        rank, world_size = ranks_of(self.trainer)
        seed = run_seed(self.seed)
        return TensorLoader(windows, None, batch_size, seed=seed, rank=rank, world_size=world_size, **options)  # type: ignore[arg-type]

    def _has(self, split: Split) -> bool:
        return self._size(split) > 0 or self.has_own(split)

    def _size(self, split: Split) -> int | float:
        """The part of the training text that becomes this split."""
        size = self.validation_size if split == "validation" else self.test_size
        if self.has_own(split):
            if size is not None:
                raise ValueError(f"{split}_size {size} cannot be given beside a separate {split} text: leave it out")
            return 0
        return size if size is not None else 0.1 if split == "validation" else 0

    def _share(self, split: Split, tokens: int) -> float:
        size = self._size(split)
        return size * tokens if isinstance(size, float) else size

    def _load(self, files: Sequence[Path]) -> Tokens:
        if self.encoding == "gpt2":
            return open_tokens(_name(files), files, self.tokenizer)
        values = torch.from_numpy(self.tokenizer.encode(self._text(files)))
        return Tokens(values, len(values))

    def _text(self, files: Sequence[Path]) -> str:
        text = "".join(read_texts(files))
        if not text:
            raise ValueError(f"{', '.join(map(str, files))} holds no text")
        return text

    def _tokens(self, split: Split) -> Tokens:
        if split not in self._splits:
            raise RuntimeError(f"the {split} text is not loaded; call setup() first")
        return self._splits[split]


def _name(files: Sequence[Path]) -> str:
    return f"{files[0].stem}-gpt2"
