"""What every failing command has in common."""

from pathlib import Path

BAD_INPUT, BAD_ENVIRONMENT = 2, 1


def files(folder: Path) -> set[Path]:
    """All files and folders below a folder."""
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def check(outcome, code: int, expected: list[str]) -> None:
    """Exactly one line, which contains the expected words, and the exit code."""
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("steepest: error: ")
    assert len(lines[0]) < 600
    assert "Traceback" not in outcome.out
    for words in expected:
        assert words in lines[0]
    assert outcome.code == code
