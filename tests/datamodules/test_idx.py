import gzip
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.datamodules.idx import read_idx


def encode(tensor: torch.Tensor, data_type: int = 8) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in tensor.shape)
    return bytes([0, 0, data_type, tensor.ndim]) + sizes + tensor.numpy().tobytes()


IMAGES = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4)
GOOD = encode(IMAGES)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans())
def test_round_trip(tmp_path_factory, sizes, compressed):
    tensor = torch.randint(0, 256, sizes, dtype=torch.uint8)
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(encode(tensor), mtime=0) if compressed else encode(tensor))
    assert torch.equal(read_idx(path, len(sizes)), tensor)


def test_the_result_can_be_written_to(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(GOOD)
    read_idx(path, 3).fill_(0)
    assert torch.equal(read_idx(path, 3), IMAGES)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not an IDX file: it begins with nothing"),
        (b"\0\0\x08", "not an IDX file"),
        (b"<html>not found</html>", "not an IDX file: it begins with 3c 68 74 6d"),
        (encode(IMAGES, data_type=0x0D), "data type is 0x0d, not 0x08"),
        (encode(IMAGES[0]), "2 dimensions instead of 3"),
        (GOOD[:10], "ends inside its header, after 10 bytes"),
        (GOOD[:-1], "declares 2 x 3 x 4 bytes of data and holds 23"),
        (GOOD + b"\0", "declares 2 x 3 x 4 bytes of data and holds 25"),
        (GOOD[:16], "declares 2 x 3 x 4 bytes of data and holds 0"),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "declares 4294967295 x 4294967295 x 4294967295 bytes"),
        (GOOD[:4] + bytes(12), "declares 0 x 0 x 0 bytes"),
        (gzip.compress(GOOD, mtime=0)[:-12], "compressed data ends too early"),
        (gzip.compress(GOOD, mtime=0)[:5], "compressed data ends too early"),
        (gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 30, "compressed data is corrupt"),
        (gzip.compress(GOOD, mtime=0)[:-8] + bytes(8), "compressed data is corrupt"),
        (gzip.compress(GOOD[:-1], mtime=0), "declares 2 x 3 x 4 bytes of data and holds 23"),
    ],
)
def test_damaged_files_are_named_with_the_mend(tmp_path, content, what):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=what) as raised:
        read_idx(path, 3)
    message = str(raised.value)
    assert str(path) in message
    assert "delete it and run again" in message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere", 1)
