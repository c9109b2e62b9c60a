"""A vocabulary in the form and size of GPT-2's, made up: merges of pairs of bytes, common ones first."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

TEXT = (
    "the cat sat on the mat; it's a cat's life, they'll say\n\n  a dog  wasn't there \n = Title = \n 12,345 cats\n"
    "naïve café\u00a0\u2028日本語 \t\n\n\nend"
)


def write_vocabulary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write `vocab.bpe` and `encoder.json` and let their digests be the published ones."""
    shown = {byte: chr(byte) for byte in range(256) if chr(byte).isprintable() and byte != 32}
    shown |= {byte: chr(256 + place) for place, byte in enumerate(byte for byte in range(256) if byte not in shown)}
    common = Counter(zip(TEXT.encode(), TEXT.encode()[1:], strict=False))
    pairs = sorted(((a, b) for a in range(256) for b in range(256)), key=lambda pair: (-common[pair], pair))[:50_000]
    merges = [f"{shown[a]} {shown[b]}" for a, b in pairs]
    order = sorted(shown, key=lambda byte: (len(shown[byte].encode()) > 2 or ord(shown[byte]) > 255, ord(shown[byte])))
    tokens = [shown[byte] for byte in order] + [merge.replace(" ", "") for merge in merges]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    places = {token: place for place, token in enumerate(tokens)} | {"<|endoftext|>": 50256}
    (folder / "encoder.json").write_text(json.dumps(places), encoding="utf-8")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("vocab.bpe", "encoder.json")}
    monkeypatch.setattr("steepest.datamodules.tokenizers.FILES", digests)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # no copies of these
    return folder
