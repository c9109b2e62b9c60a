"""Functions of a few weights with known minima: plain `nn.Module` classes, usable without Lightning.

Every public, concrete `Objective` in a module of this folder can be named without a path, here and on the command line.
"""

from typing import TYPE_CHECKING, Any

from steepest.common.discovery import offer_classes
from steepest.lightning_modules.objectives.base import Objective

offer_classes("steepest.lightning_modules.objectives", Objective, globals())

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Tell type checkers, which run nothing, that there are names; in the modules they see each with its type."""
