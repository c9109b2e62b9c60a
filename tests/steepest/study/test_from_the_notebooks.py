"""What docs/from_the_notebooks.md tells people to type works."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from steepest.shipped import STUDIES, find

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "from_the_notebooks.md").read_text()
COMMANDS = [
    shlex.split(line.replace("\\\n", " "))
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in re.findall(r"^(?:.*\\\n)*.*$", block, re.MULTILINE)
    if line.strip()
]


def test_its_python_runs(capsys) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(block, "from_the_notebooks.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_its_studies_exist() -> None:
    folder = ROOT / "configs" / "studies"
    table = TEXT.partition("| there | study |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.rpartition(" | ")[2])}
    assert named == {file.stem for file in folder.glob("*.yaml")}


@pytest.mark.parametrize("words", COMMANDS, ids=[" ".join(words[1:4]) for words in COMMANDS])
def test_its_commands_are_understood(words, monkeypatch) -> None:
    from steepest.command_line.command_line import CommandLine

    monkeypatch.chdir(ROOT)
    assert words[0] == "steepest"
    if words[1] in ("fit", "lr_range_test"):
        with contextlib.redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit) as exit:
            CommandLine([*words[1:], "--print_config"])
        assert exit.value.code == 0
        assert output.getvalue()
    elif words[1] == "study":
        assert find(words[3], STUDIES).is_file()
    else:
        assert words[1] == "stability"  # tests/steepest/commands/test_stability.py runs it
