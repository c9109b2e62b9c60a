import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "coordinate_check.py"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # it adds the repository
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        ("mlp", ["hidden1", "hidden2", "output"]),
        ("gpt2", ["token_embedding", "blocks.0.attention.qkv", "blocks.1.mlp.output", "head"]),
    ],
)
def test_a_table_and_a_figure(network, layers, tmp_path, monkeypatch, capsys) -> None:
    size = ["--base", "16", "--widths", "1", "2", "--steps", "2", "--seeds", "1"]
    run(monkeypatch, "--network", network, *size, "--output", str(tmp_path / "figures"))
    shown = capsys.readouterr().out
    assert all(layer in shown for layer in layers)
    assert (tmp_path / "figures" / "coordinate_check.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--network", "gpt2", "--base", "40"], "--base must be a multiple of 16, the size of a head, not 40"),
        (["--steps", "0"], "steps must be at least 1, not 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(words, line, tmp_path, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit) as exit_code:
        run(monkeypatch, *words, "--output", str(tmp_path / "figures"))
    assert exit_code.value.code == 2
    assert capsys.readouterr().err == f"coordinate_check.py: error: {line}\n"
    assert not (tmp_path / "figures").exists()
