import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.datamodules.tokenizers import CharacterTokenizer, GPT2Tokenizer, tokenizer_from
from tests.datamodules.byte_pairs import TEXT, write_vocabulary


@pytest.fixture
def byte_pairs(tmp_path, monkeypatch) -> GPT2Tokenizer:
    return GPT2Tokenizer(write_vocabulary(tmp_path / "vocabulary", monkeypatch))


@settings(deadline=None)
@given(st.text(min_size=1))
def test_characters_go_there_and_back(text):
    tokenizer = CharacterTokenizer(text)
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.uint16
    assert tokenizer.decode(tokens.tolist()) == text
    assert tokenizer.characters == "".join(sorted(set(text)))
    again = tokenizer_from(tokenizer.description())
    assert np.array_equal(again.encode(text), tokens)
    assert tokenizer.decode([tokenizer.start]) == ("\n" if "\n" in text else min(text))


@pytest.mark.parametrize("stranger", ["A", "z", "ÿ", "日"])
def test_an_unknown_character_is_named(stranger):
    with pytest.raises(ValueError, match=f"character '{stranger}' is not among the 3 of the vocabulary: 'bcd'"):
        CharacterTokenizer("dcb").encode(f"bcd{stranger}")


def test_a_text_without_characters_has_no_vocabulary():
    with pytest.raises(ValueError, match="1 to 65536 different characters, this has 0"):
        CharacterTokenizer("")


def test_byte_pairs_go_there_and_back(byte_pairs):
    tokens = byte_pairs.encode(TEXT)
    assert tokens.dtype == np.uint16
    assert len(tokens) < len(TEXT)
    assert byte_pairs.decode(tokens.tolist()) == TEXT
    assert byte_pairs.decode([byte_pairs.start]) == "<|endoftext|>"
    # The name of a special token in a text is text.
    assert byte_pairs.start not in byte_pairs.encode("<|endoftext|>").tolist()


def test_byte_pairs_that_are_missing_or_damaged(tmp_path, byte_pairs):
    with pytest.raises(FileNotFoundError, match=r"encoding_dir .*nowhere lacks vocab.bpe"):
        GPT2Tokenizer(tmp_path / "nowhere").load()
    assert byte_pairs.encoding_dir is not None
    file = byte_pairs.encoding_dir / "encoder.json"
    file.write_text(file.read_text()[:1000])
    with pytest.raises(ValueError, match=r"encoder.json is not GPT-2's or damaged: its SHA-256 digest"):
        byte_pairs.load()


def test_without_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody answers there
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConnectionError, match=r"cannot download GPT-2's vocabulary .* encoding_dir") as raised:
        GPT2Tokenizer().load()
    assert "\n" not in str(raised.value)


def test_an_unknown_encoding_is_refused():
    with pytest.raises(ValueError, match="encoding 'words' is unknown; allowed: characters, gpt2"):
        tokenizer_from({"encoding": "words"})
