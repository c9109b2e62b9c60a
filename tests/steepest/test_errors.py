"""Which error ends how."""

import errno

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from steepest.errors import exit_code, one_line


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), 2),
        (FileNotFoundError("x"), 2),
        (NotADirectoryError("x"), 2),
        (FloatingPointError("x"), 2),
        (MisconfigurationException("x"), 2),
        (RuntimeError("Early stopping conditioned on metric `x` which is not available."), 2),
        (PermissionError("x"), 1),
        (ConnectionError("x"), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (MemoryError(), 1),
        (torch.OutOfMemoryError("x"), 1),
        (KeyError("x"), None),
        (RuntimeError("x"), None),
        (TypeError("x"), None),
    ],
    ids=repr,
)
def test_exit_code(error, code):
    assert exit_code(error) == code


def test_one_line():
    assert one_line(ValueError("two\n   lines")) == "two lines"
    assert one_line(MemoryError()) == "MemoryError"
    assert one_line(OSError(errno.ENOSPC, "No space left on device", "runs/x")) == "runs/x: no space left on device"
