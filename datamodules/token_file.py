"""Tokens of a text on disk, encoded once and mapped into memory by every run."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from steepest.common.atomic import cache_folders, make_cache_folder, replacing
from steepest.datamodules.text_source import cut_at_words, read_texts
from steepest.datamodules.tokenizers import Tokenizer

FOLDER = "tokens"
FORMAT = 1  # another number makes all kept files unknown


@dataclass(frozen=True)
class Tokens:
    """An encoded text.

    Attributes:
        values: Its tokens, uint16, of shape (tokens,).
        characters: Number of characters that they stand for.
    """

    values: Tensor
    characters: int


def keep_tokens(name: str, sources: Sequence[Path], tokenizer: Tokenizer) -> None:
    """Encode the text of files and keep its tokens on disk, unless they are there already.

    They are kept as `name.bin`, plain uint16 in the machine's byte order, in the folder `tokens` beside the sources or,
    if that cannot be written, in `steepest/tokens` of the user's cache folder. `name.json`, written last, says what
    they were made from: without it, or if it does not fit, the file is not taken for complete. Kept files may be
    deleted at any time.

    The encoding runs in as many threads as the process has cores: tiktoken releases Python's lock.

    Args:
        name: Beginning of the files' names, such as "train-gpt2".
        sources: The files of the text, in order.
        tokenizer: Encodes the text.

    Raises:
        FileNotFoundError: If a source is missing.
        OSError: If the tokens cannot be written anywhere.
        ValueError: If a source is damaged or holds no text.
    """
    if _find(name, sources, tokenizer) is not None:
        return
    failures = []
    for folder in cache_folders(sources[0], FOLDER):
        try:
            make_cache_folder(folder)
        except OSError as error:
            failures.append(f"{folder} ({error.strerror or error})")
            continue
        _build(folder / f"{name}.bin", sources, tokenizer)
        return
    raise OSError(f"cannot keep the tokens of {sources[0]} in {' or '.join(failures)}; make one of them writable")


def open_tokens(name: str, sources: Sequence[Path], tokenizer: Tokenizer) -> Tokens:
    """Map tokens that `keep_tokens` has written into memory. Arguments as there.

    Raises:
        FileNotFoundError: If they are not there.
    """
    found = _find(name, sources, tokenizer)
    if found is None:
        raise FileNotFoundError(f"the tokens of {sources[0]} are not complete; call prepare_data() first")
    path, record = found
    values = torch.from_file(str(path), shared=False, size=record["tokens"], dtype=torch.uint16)
    return Tokens(values, record["characters"])


def _find(name: str, sources: Sequence[Path], tokenizer: Tokenizer) -> tuple[Path, dict[str, Any]] | None:
    for folder in cache_folders(sources[0], FOLDER):
        path = folder / f"{name}.bin"
        try:
            record = json.loads(path.with_suffix(".json").read_text())
            complete = path.stat().st_size == 2 * record["tokens"]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError):
            complete, record = False, {}
        if not complete:
            rank_zero_info(f"{path} is not complete: its text is encoded again")
        elif record.get("made_by") == _made_by(tokenizer) and _is_made_from(record["sources"], sources):
            return path, record
    return None


def _build(path: Path, sources: Sequence[Path], tokenizer: Tokenizer) -> None:
    rank_zero_info(f"encoding {', '.join(map(str, sources))} to {path}, once")
    states = [_state(source) for source in sources]  # before reading: a change in between is found by the next run
    tokens = characters = 0
    with replacing(path) as partial:
        with partial.open("wb") as file:
            for values, length in _encoded(cut_at_words(read_texts(sources)), tokenizer):
                values.tofile(file)
                tokens, characters = tokens + len(values), characters + length
        if not tokens:
            raise ValueError(f"{', '.join(map(str, sources))} holds no text")
    record = {"made_by": _made_by(tokenizer), "sources": states, "tokens": tokens, "characters": characters}
    with replacing(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n")


def _encoded(pieces: Iterator[str], tokenizer: Tokenizer) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the tokens of each piece, in order, and the number of its characters."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: list[tuple[Future[np.ndarray], int]] = []
    with ThreadPoolExecutor(threads) as pool:
        for piece in pieces:
            waiting.append((pool.submit(tokenizer.encode, piece), len(piece)))
            if len(waiting) > 2 * threads:  # enough to keep all busy without holding the whole text
                encoded, length = waiting.pop(0)
                yield encoded.result(), length
        for encoded, length in waiting:
            yield encoded.result(), length


def _made_by(tokenizer: Tokenizer) -> list[Any]:
    return [FORMAT, tokenizer.description()]


def _state(source: Path) -> dict[str, Any]:
    status = source.stat()
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": source.name, "bytes": status.st_size, "changed": status.st_mtime_ns, "sha256": digest}


def _is_made_from(states: Sequence[dict[str, Any]], sources: Sequence[Path]) -> bool:
    if [state["name"] for state in states] != [source.name for source in sources]:
        return False
    for state, source in zip(states, sources, strict=True):
        status = source.stat()
        if status.st_size != state["bytes"]:
            return False
        # A new date may only mean a copy; reading gigabytes at every start to find out is spared where it is the same.
        if status.st_mtime_ns != state["changed"] and _state(source)["sha256"] != state["sha256"]:
            return False
    return True
