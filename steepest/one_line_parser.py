"""A parser for commands that need no Lightning."""

import argparse
from typing import NoReturn

from steepest.cli import BAD_INPUT, fail


class OneLineParser(argparse.ArgumentParser):
    """Python's parser, which ends in one line where an option is wrong."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        fail(" ".join(message.split()), BAD_INPUT)
