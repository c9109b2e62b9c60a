"""From text to numbers below 65,536 and back: by characters, or by GPT-2's byte pairs."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

Encoding = Literal["characters", "gpt2"]

# SHA-256 digests of the files as OpenAI publishes them and tiktoken checks them.
FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
GPT2_VOCABULARY_SIZE = 50257
LARGEST_VOCABULARY = 2**16  # tokens are stored as uint16


class Tokenizer(Protocol):
    """What data modules and samplers need of an encoding."""

    @property
    def vocabulary_size(self) -> int:
        """Number of different tokens."""
        ...

    @property
    def start(self) -> int:
        """The token that a text without a beginning is continued from."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens of a text, uint16."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens."""
        ...

    def description(self) -> dict[str, Any]:
        """Return plain values from which `tokenizer_from` makes the tokenizer again, for checkpoints."""
        ...


class CharacterTokenizer:
    """One token for each different character, numbered in the order of their code points.

    Args:
        text: Any text that has all the characters.

    Raises:
        ValueError: If it has none, or more than 65,536 different ones.
    """

    def __init__(self, text: str) -> None:
        points = np.unique(_code_points(text))
        if not 1 <= len(points) <= LARGEST_VOCABULARY:
            raise ValueError(f"a text must have 1 to {LARGEST_VOCABULARY} different characters, this has {len(points)}")
        self._points = points
        self.characters = "".join(map(chr, points.tolist()))

    @property
    def vocabulary_size(self) -> int:
        """Number of different characters."""
        return len(self.characters)

    @property
    def start(self) -> int:
        """The end of a line, or the first character if there is none."""
        return max(self.characters.find("\n"), 0)

    def encode(self, text: str) -> np.ndarray:
        """Return the number of each character, uint16.

        Raises:
            ValueError: If a character has none.
        """
        points = _code_points(text)
        places = np.searchsorted(self._points, points).clip(max=len(self._points) - 1)
        unknown = points[self._points[places] != points]
        if len(unknown):
            raise ValueError(
                f"character {chr(unknown[0])!r} is not among the {self.vocabulary_size} of the vocabulary: "
                f"{self.characters!r}"
            )
        return places.astype(np.uint16)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the characters of these numbers."""
        return "".join(self.characters[token] for token in tokens)

    def description(self) -> dict[str, Any]:
        """Return all characters in their order."""
        return {"encoding": "characters", "characters": self.characters}


class GPT2Tokenizer:
    """GPT-2's byte-pair encoding with 50,257 tokens (Radford et al. 2019), by tiktoken.

    The vocabulary is read when it is first needed: from `encoding_dir` if given, otherwise from tiktoken's cache
    (TIKTOKEN_CACHE_DIR), where tiktoken downloads it to.

    Args:
        encoding_dir: Folder with the two files `encoder.json` and `vocab.bpe`.
    """

    def __init__(self, encoding_dir: str | Path | None = None) -> None:
        self.encoding_dir = None if encoding_dir is None else Path(encoding_dir).expanduser()

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, the end of text among them."""
        return GPT2_VOCABULARY_SIZE

    @property
    def start(self) -> int:
        """The end of a text, <|endoftext|>, behind which another one starts."""
        return GPT2_VOCABULARY_SIZE - 1

    def load(self) -> None:
        """Read the vocabulary now.

        Raises:
            FileNotFoundError: If a file is missing in `encoding_dir`.
            ValueError: If a file there is damaged.
            ConnectionError: If the vocabulary cannot be downloaded.
        """
        self._encoding  # noqa: B018 - the first access reads it

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens of a text, uint16; a special token's name in it is text like any other."""
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens; bytes that are not a complete character become U+FFFD."""
        return self._encoding.decode(list(tokens))

    def description(self) -> dict[str, Any]:
        """Return the encoding's name."""
        return {"encoding": "gpt2"}

    @cached_property
    def _encoding(self) -> Any:
        import tiktoken  # here, as it takes a while that other data sets need not pay
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks
        from tiktoken_ext import openai_public

        if self.encoding_dir is None:
            import requests

            try:
                return tiktoken.get_encoding("gpt2")
            except (requests.RequestException, OSError, ValueError) as error:
                raise ConnectionError(_cannot_download(error)) from None
        files = [self.encoding_dir / name for name in FILES]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"encoding_dir {self.encoding_dir} lacks {file.name} of GPT-2's vocabulary")
            if hashlib.sha256(file.read_bytes()).hexdigest() != FILES[file.name]:
                raise ValueError(f"{file} is not GPT-2's or damaged: its SHA-256 digest is not {FILES[file.name]}")
        # With the digests, because tiktoken keeps copies by path and would read an old one.
        ranks = data_gym_to_mergeable_bpe_ranks(
            vocab_bpe_file=str(files[0]),
            encoder_json_file=str(files[1]),
            vocab_bpe_hash=FILES[files[0].name],
            encoder_json_hash=FILES[files[1].name],
        )
        return tiktoken.Encoding(
            "gpt2",
            pat_str=openai_public.r50k_pat_str,
            mergeable_ranks=ranks,
            special_tokens={openai_public.ENDOFTEXT: self.start},
            explicit_n_vocab=self.vocabulary_size,
        )


def tokenizer_from(description: Mapping[str, Any], encoding_dir: str | Path | None = None) -> Tokenizer:
    """Make the tokenizer that a checkpoint describes.

    Args:
        description: What `Tokenizer.description` returned.
        encoding_dir: See `GPT2Tokenizer`.

    Raises:
        ValueError: If the encoding is unknown.
    """
    if description["encoding"] == "characters":
        return CharacterTokenizer(description["characters"])
    check_encoding(description["encoding"])
    return GPT2Tokenizer(encoding_dir)


def check_encoding(encoding: str) -> None:
    """Refuse an unknown name."""
    if encoding not in get_args(Encoding):
        raise ValueError(f"encoding {encoding!r} is unknown; allowed: {', '.join(get_args(Encoding))}")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _cannot_download(error: Exception) -> str:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return (
        f"cannot download GPT-2's vocabulary ({reason}); put encoder.json and vocab.bpe into a folder and give it as "
        "encoding_dir, or set TIKTOKEN_CACHE_DIR to a folder where tiktoken has it"
    )
