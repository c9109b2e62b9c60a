"""Where the eigenvalues of `steepest stability` come from."""

import json
from pathlib import Path
from typing import Any


def parse_eigenvalues(text: str, source: str) -> list[float]:
    """Numbers apart by commas or white space; what follows a # in a line is a comment.

    Args:
        text: The text.
        source: Where it is from, for messages.

    Raises:
        ValueError: if a word is not a number.
    """
    lines = [line.partition("#")[0] for line in text.splitlines()]
    values = []
    for word in " ".join(lines).replace(",", " ").split():
        try:
            values.append(float(word))
        except ValueError:
            raise ValueError(f"{source}: {word[:40]!r} is not a number") from None
    return values


def read_spectrum(path: Path) -> tuple[list[float], str | None]:
    """Eigenvalues of a file: the `sharpness.json` of a run, or a text of numbers.

    Args:
        path: A file with the suffix .json is taken for a report of SharpnessProbe: its last eigenvalues, and the nodes
            of its density if there is one. Negative curvature, along which no learning rate converges, is left out of a
            measured spectrum, and said.

    Returns:
        The eigenvalues, and what was left out in words, if anything.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else, or no positive eigenvalue.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--spectrum: there is no file {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"--spectrum: {path} is not a text file") from None
    if path.suffix.lower() != ".json":
        return parse_eigenvalues(text, f"--spectrum {path}"), None
    try:
        measured = _measured(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"--spectrum: {path}, line {error.lineno} is not JSON: {error.msg}") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"--spectrum: {path} is not the sharpness.json that SharpnessProbe writes") from None
    kept = [value for value in measured if value > 0]
    if not kept:
        raise ValueError(f"--spectrum: {path} holds no eigenvalue above 0, so there is no limit")
    left_out = len(measured) - len(kept)
    verb = "is" if left_out == 1 else "are"
    note = f"{left_out} of {len(measured)} eigenvalues {verb} not above 0 and left out"
    return kept, note if left_out else None


def _measured(report: Any) -> list[float]:
    last = report["last"]
    density = last.get("density") or {"nodes": []}
    return sorted({float(value) for value in (*last["eigenvalues"], *density["nodes"])})
