"""Configs and studies that come with Steepest, found by name from any folder: `digits_mlp`, `presets/debug`."""

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

SUFFIX = ".yaml"
STUDIES = "studies"


def shipped(kind: str = "configs") -> dict[str, Path]:
    """The files of a kind, `configs` or `studies`, by name."""
    # In a checkout and installed it is a plain folder; the readers of YAML need a path.
    top = Path(str(resources.files("steepest.configs") / STUDIES)).parent
    if kind == STUDIES:
        return {path.stem: path for path in sorted((top / STUDIES).glob(f"*{SUFFIX}"))}
    # Tasks first, then what is layered on top of them.
    files = [*sorted(top.glob(f"*{SUFFIX}")), *sorted(top.glob(f"*/*{SUFFIX}"))]
    names = {path.relative_to(top).with_suffix("").as_posix(): path for path in files}
    return {name: path for name, path in names.items() if not name.startswith(f"{STUDIES}/")}


def find(word: str, kind: str = "configs", folder: Path = Path()) -> Path:
    """The file that a word stands for: that path if there is such a file, else a shipped file of that name.

    Args:
        word: A path, or a name with or without `.yaml`.
        kind: `configs` or `studies`.
        folder: Where relative paths begin.

    Raises:
        FileNotFoundError: if it is neither; the message names the nearest shipped file.
    """
    path, name = folder / word, word.removesuffix(SUFFIX)
    if path.is_file():
        return path
    known = shipped(kind)
    if name in known:
        return known[name]
    raise FileNotFoundError(f"there is no file {path}{_meant(name, known)} See `steepest list {kind}`.")


def with_shipped_configs(words: Sequence[str]) -> list[str]:
    """A command line in which every `--config NAME` is a file that there is.

    Raises:
        FileNotFoundError: if one is neither a file nor the name of a shipped config.
    """
    found = list(words)
    try:
        for index, word in enumerate(words):
            option, separator, value = word.partition("=")
            if option not in ("--config", "-c"):
                continue
            if separator:
                found[index] = f"{option}={find(value)}"
            elif index + 1 < len(words):
                found[index + 1] = str(find(words[index + 1]))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--config: {error}") from None
    return found


def first_line(path: Path) -> str:
    """What a config says about itself: its first comment line."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()


def _meant(name: str, known: dict[str, Path]) -> str:
    # By their last parts: `debug` means presets/debug, `configs/digit_mlp` means digits_mlp.
    lasts = {each.rpartition("/")[2]: each for each in known}
    nearest = difflib.get_close_matches(name.rpartition("/")[2], lasts, n=1)
    return f". Did you mean {lasts[nearest[0]]!r}?" if nearest else "."
