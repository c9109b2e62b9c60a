"""The parser's error messages in one line: the option, what was wrong, and what is allowed."""

import re

from optim.registry import unknown_name

_LONGEST = 400


def explain(message: str) -> str:
    """Fold a message of jsonargparse or Lightning into one line that says what a user can act on."""
    return " ".join(message.split())[:_LONGEST]
