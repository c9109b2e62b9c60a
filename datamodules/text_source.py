"""Reads text from plain and Parquet files, in pieces that GPT-2's encoding may meet one by one."""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

CHUNK_BYTES = 1 << 20
COLUMN = "text"

# Unicode's white space, as the encoding knows it; Python's `isspace` and `\s` also take U+001C to U+001F for it.
SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_LAST_SPACE = re.compile(f"[{SPACES}][^{SPACES}]*\\Z")


def read_texts(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the text of files, one after the other, in parts of about a megabyte.

    Args:
        paths: Plain UTF-8 files, or Parquet files (`.parquet`) with a column `text`, whose rows are lines: a row that
            does not end with a line end gets one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is damaged, not UTF-8, or has no such column.
    """
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"there is no text file {path}")
        yield from _read_parquet(path) if path.suffix == ".parquet" else _read_plain(path)


def cut_at_words(texts: Iterable[str], size: int = CHUNK_BYTES) -> Iterator[str]:
    """Join parts of a text and cut it anew, only between a character and white space behind it.

    No token of GPT-2's encoding reaches over such a place, and how it divides the text behind does not depend on what
    stands before: the tokens of the pieces, one after the other, are those of the whole text.

    Args:
        texts: Parts of the text, of any length.
        size: Characters that a piece has at least, but for the last one.
    """
    parts: list[str] = []
    length = 0
    for text in texts:
        parts.append(text)
        length += len(text)
        if length < size:
            continue
        joined = "".join(parts)
        space = _LAST_SPACE.search(joined)
        # Where the last run of white space starts; it may go on in the next part.
        cut = 0 if space is None else len(joined[: space.start() + 1].rstrip(SPACES))
        if cut:
            yield joined[:cut]
        parts, length = [joined[cut:]], len(joined) - cut
    rest = "".join(parts)
    if rest:
        yield rest


def _read_plain(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                byte, place = error.object[error.start], done - pending + error.start
                raise ValueError(
                    f"{path} is not UTF-8 text: {error.reason} 0x{byte:02x} at byte {place:,}; convert the file first"
                ) from None
            if text:
                yield text
            if not chunk:
                return
            done += len(chunk)


def _read_parquet(path: Path) -> Iterator[str]:
    import pyarrow  # here, as it takes a while that other data sets need not pay
    from pyarrow import parquet

    with path.open("rb") as content:
        try:
            file = parquet.ParquetFile(content)
            names = file.schema_arrow.names
            if COLUMN not in names:
                raise ValueError(f"{path} must have a column {COLUMN}, it has {', '.join(names)}")
            for batch in file.iter_batches(batch_size=4096, columns=[COLUMN]):
                rows = batch.column(0).to_pylist()
                if any(not isinstance(row, str) for row in rows):
                    raise ValueError(f"the column {COLUMN} of {path} must hold text in every row")
                yield "".join(row if row.endswith("\n") else row + "\n" for row in rows)
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is damaged: {reason}; put a good copy of {path.name} there") from None
