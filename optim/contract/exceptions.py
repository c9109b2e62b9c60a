"""What an algorithm cannot satisfy by its nature, with the reason."""

from fnmatch import fnmatchcase

# (name of the optimizer with wildcards, name of the check): reason.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("external", "refuses_bad_values"): "the class that is given decides which values it takes; PyTorch's take lr = inf",
}


def exception(optimizer: str, check: str) -> str | None:
    """Why an optimizer need not satisfy a check, or None if it must."""
    for (pattern, excepted), reason in EXCEPTIONS.items():
        if excepted == check and fnmatchcase(optimizer, pattern):
            return reason
    return None
