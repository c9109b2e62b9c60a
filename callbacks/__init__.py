"""Thin Lightning callbacks around the functions of `diagnostics`.

Every public callback in a module of this folder can be named without a path, here and on the command line:
`--trainer.callbacks+=GradientFlowMonitor`.
"""

from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from steepest.common.discovery import offer_classes

offer_classes("steepest.callbacks", Callback, globals())

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Tell type checkers, which run nothing, that there are names; in the modules they see each with its type."""
