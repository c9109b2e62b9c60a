import os
import stat
from pathlib import Path

import pytest

from steepest.common.atomic import replacing


def fail_in_the_middle(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("half")
        raise OSError("disk full")


def test_a_failed_write_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "new" / "file.txt"
    with replacing(path) as partial:
        assert partial.parent == path.parent
        assert partial.suffix == ".txt"
        partial.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        fail_in_the_middle(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch) -> None:
    path, order = tmp_path / "file.txt", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append(os.fstat(handle).st_size), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda source, target: (order.append(target), replace(source, target)))
    with replacing(path) as partial:
        partial.write_text("whole")
    assert order == [5, path]
