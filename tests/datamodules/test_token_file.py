import itertools
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from steepest.datamodules import text_source
from steepest.datamodules.text_source import SPACES, cut_at_words, read_texts
from steepest.datamodules.token_file import keep_tokens, open_tokens
from steepest.datamodules.tokenizers import CharacterTokenizer, GPT2Tokenizer
from tests.datamodules.byte_pairs import TEXT, write_vocabulary

LONG = "".join(f"{TEXT} {number} " for number in range(60))


@pytest.fixture(scope="module")
def byte_pairs(tmp_path_factory) -> GPT2Tokenizer:
    with pytest.MonkeyPatch.context() as monkeypatch:
        tokenizer = GPT2Tokenizer(write_vocabulary(tmp_path_factory.mktemp("vocabulary"), monkeypatch))
        tokenizer.load()
    return tokenizer


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "text" / "long.txt"
    path.parent.mkdir()
    path.write_bytes(LONG.encode())
    return path


# White space of all kinds, in runs, beside letters, digits, marks and contractions.
PARTS = st.lists(
    st.sampled_from([" ", "  ", "\n", "\t", "\u00a0", "\u2028", "a", "'s", "12", "!", "日", "'ll", "\x1c"])
)


@settings(deadline=None)
@given(PARTS, st.integers(1, 6), st.integers(1, 5))
def test_pieces_are_the_text_and_end_before_white_space(parts, size, step):
    text = "".join(parts)
    pieces = list(cut_at_words([text[i : i + step] for i in range(0, len(text), step)], size))
    assert "".join(pieces) == text
    for piece, following in itertools.pairwise(pieces):
        assert piece[-1] not in SPACES
        assert following[0] in SPACES


@settings(deadline=None, max_examples=200)
@given(text=PARTS.map("".join), size=st.integers(1, 6))
def test_tokens_of_pieces_are_those_of_the_text(byte_pairs, text, size):
    pieces = [byte_pairs.encode(piece) for piece in cut_at_words([text], size)]
    assert np.concatenate([np.empty(0, np.uint16), *pieces]).tolist() == byte_pairs.encode(text).tolist()


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 20])
def test_the_token_file_is_the_text_encoded_in_one_piece(byte_pairs, file, monkeypatch, chunk):
    monkeypatch.setattr(text_source, "CHUNK_BYTES", chunk)
    monkeypatch.setattr("steepest.datamodules.token_file.cut_at_words", lambda texts: cut_at_words(texts, chunk))
    keep_tokens("long", [file], byte_pairs)
    found = open_tokens("long", [file], byte_pairs)
    assert found.values.tolist() == byte_pairs.encode(LONG).tolist()
    assert found.values.dtype == torch.uint16
    assert found.characters == len(LONG)


def test_it_is_built_once_and_again_when_the_text_changes(byte_pairs, file):
    keep_tokens("long", [file], byte_pairs)
    kept = file.parent / "tokens" / "long.bin"
    before = kept.stat()
    keep_tokens("long", [file], byte_pairs)
    os.utime(file, (1, 1))  # a copy of the same text
    keep_tokens("long", [file], byte_pairs)
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    opened = open_tokens("long", [file], byte_pairs).values
    values = opened.tolist()
    file.write_text("another text")
    with pytest.raises(FileNotFoundError, match=r"call prepare_data\(\) first"):
        open_tokens("long", [file], byte_pairs)
    keep_tokens("long", [file], byte_pairs)
    assert byte_pairs.decode(open_tokens("long", [file], byte_pairs).values.tolist()) == "another text"
    assert opened.tolist() == values  # a run that had mapped the old file goes on with it
    # Other tokens under the same name are not mistaken for these.
    keep_tokens("long", [file], CharacterTokenizer("another text"))
    with pytest.raises(FileNotFoundError):
        open_tokens("long", [file], byte_pairs)


@pytest.mark.parametrize("damage", ["killed", "no record", "half a record", "cut off"])
def test_what_is_not_complete_is_built_again(byte_pairs, file, monkeypatch, damage):
    kept = file.parent / "tokens" / "long.bin"
    if damage == "killed":
        calls = iter(range(3))

        def encode(self: GPT2Tokenizer, text: str) -> np.ndarray:
            if next(calls) == 2:
                raise KeyboardInterrupt
            return np.zeros(5, np.uint16)

        with monkeypatch.context() as patch:
            patch.setattr(GPT2Tokenizer, "encode", encode)
            patch.setattr(text_source, "CHUNK_BYTES", 64)
            patch.setattr("steepest.datamodules.token_file.cut_at_words", lambda texts: cut_at_words(texts, 100))
            with pytest.raises(KeyboardInterrupt):
                keep_tokens("long", [file], byte_pairs)
        assert list(kept.parent.iterdir()) == []
    else:
        keep_tokens("long", [file], byte_pairs)
        record = kept.with_suffix(".json")
        if damage == "no record":
            record.unlink()
        elif damage == "half a record":
            record.write_text(record.read_text()[:40])
        else:
            with kept.open("r+b") as content:
                content.truncate(100)
        with pytest.raises(FileNotFoundError):
            open_tokens("long", [file], byte_pairs)
    keep_tokens("long", [file], byte_pairs)
    assert byte_pairs.decode(open_tokens("long", [file], byte_pairs).values.tolist()) == LONG


def test_beside_a_text_that_is_read_only_the_users_cache_keeps_the_tokens(byte_pairs, file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file.parent.chmod(0o555)
    try:
        keep_tokens("long", [file], byte_pairs)
        assert sorted(path.name for path in (tmp_path / "cache/steepest/tokens").iterdir()) == ["long.bin", "long.json"]
        (tmp_path / "cache").rename(tmp_path / "elsewhere")
        (tmp_path / "cache").write_text("in the way")
        with pytest.raises(OSError, match=r"cannot keep the tokens of .*long.txt in .* make one of them writable"):
            keep_tokens("long", [file], byte_pairs)
    finally:
        file.parent.chmod(0o755)


def test_parquet_rows_are_lines(tmp_path):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": ["", " = Title = \n", "a line"]}), path)
    assert "".join(read_texts([path])) == "\n = Title = \na line\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: path.write_bytes(b"caf\xc3\xa9 " * 300 + b"\xff tail"),
            r"is not UTF-8 text: .* 0xff at byte 1,800",
        ),
        (
            lambda path: path.write_bytes(b"half a caf\xc3"),
            r"is not UTF-8 text: unexpected end of data 0xc3 at byte 10",
        ),
        (lambda path: path.write_bytes(b""), r"holds no text"),
    ],
)
def test_undecodable_text_is_refused_in_one_line(byte_pairs, tmp_path, monkeypatch, make, message):
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 64)
    path = tmp_path / "bad.txt"
    make(path)
    with pytest.raises(ValueError, match=message) as raised:
        keep_tokens("bad", [path], byte_pairs)
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "tokens").iterdir()) == []
    path.write_text("a good text")
    keep_tokens("bad", [path], byte_pairs)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "is damaged: .*; put a good copy of bad.parquet there"),
        ("other column", "must have a column text, it has label"),
        ("numbers", "must hold text in every row"),
        ("missing", "there is no text file"),
    ],
)
def test_bad_parquet_is_refused_in_one_line(tmp_path, damage, message):
    path = tmp_path / "bad.parquet"
    column = {"other column": {"label": ["a"]}, "numbers": {"text": [1]}}.get(damage, {"text": ["a line"] * 5000})
    parquet.write_table(pa.table(column), path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    if damage == "missing":
        path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        list(read_texts([path]))
    assert "\n" not in str(raised.value)


def test_a_text_that_changes_while_it_is_read_is_read_again(byte_pairs, file, monkeypatch):
    def changing(texts):
        yield from cut_at_words(texts)
        file.write_bytes((LONG + " more").encode())

    monkeypatch.setattr("steepest.datamodules.token_file.cut_at_words", changing)
    keep_tokens("long", [file], byte_pairs)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="not complete"):
        open_tokens("long", [file], byte_pairs)
    keep_tokens("long", [file], byte_pairs)
    assert open_tokens("long", [file], byte_pairs).characters == len(LONG) + 5
