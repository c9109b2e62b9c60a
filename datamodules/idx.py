"""Reads the IDX files in which MNIST and its relatives come."""

import gzip
import zlib
from math import prod
from pathlib import Path

import torch
from torch import Tensor

UNSIGNED_BYTE = 0x08


def read_idx(path: str | Path, dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes, plain or compressed by gzip (http://yann.lecun.com/exdb/mnist/).

    The file begins with two zero bytes, the code of the data type and the number of dimensions, followed by the sizes
    as big-endian 32-bit integers and the data. Whether it is compressed is read off its content, not its name.

    Args:
        path: The file.
        dimensions: Number of dimensions it must have: 3 for images, 1 for labels.

    Returns:
        uint8 tensor of the sizes that the file declares.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content = _read(path)
    header = 4 + 4 * dimensions
    if len(content) < 4 or content[:2] != b"\0\0":
        raise _damaged(path, f"it is not an IDX file: it begins with {content[:4].hex(' ') or 'nothing'}")
    if content[2] != UNSIGNED_BYTE:
        raise _damaged(path, f"its data type is 0x{content[2]:02x}, not 0x{UNSIGNED_BYTE:02x}, unsigned bytes")
    if content[3] != dimensions:
        raise _damaged(path, f"it has {content[3]} dimensions instead of {dimensions}")
    if len(content) < header:
        raise _damaged(path, f"it ends inside its header, after {len(content)} bytes")
    sizes = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    if prod(sizes) != len(content) - header or prod(sizes) == 0:
        declared = " x ".join(map(str, sizes))
        raise _damaged(path, f"it declares {declared} bytes of data and holds {len(content) - header}")
    return torch.frombuffer(content, dtype=torch.uint8, offset=header).view(sizes)


def _read(path: Path) -> bytearray:
    """Return the content of a file, decompressed if need be (writable, as torch shares its memory)."""
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return bytearray(content)
    try:
        return bytearray(gzip.decompress(content))
    except EOFError:
        raise _damaged(path, "its compressed data ends too early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, f"its compressed data is corrupt ({error})") from None


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is damaged: {what}; delete it and run again to download it, or put a good copy of {path.name} there"
    )
