"""DataModules, one per data set, and the loaders they share.

Every public, concrete DataModule in a module of this folder can be named without a path, here and on the command line.
"""

from typing import TYPE_CHECKING, Any

from lightning import LightningDataModule

from steepest.common.discovery import offer_classes

offer_classes("steepest.datamodules", LightningDataModule, globals())

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Tell type checkers, which run nothing, that there are names; in the modules they see each with its type."""
