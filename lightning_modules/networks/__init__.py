"""Networks: plain `nn.Module` classes, usable without Lightning.

Every network in a module of this folder can be named without a path, here and on the command line. A module that
defines parts of networks too names the networks in its `__all__`.
"""

from typing import TYPE_CHECKING, Any

from torch import nn

from steepest.common.discovery import offer_classes

offer_classes("steepest.lightning_modules.networks", nn.Module, globals())

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Tell type checkers, which run nothing, that there are names; in the modules they see each with its type."""
