"""Optimizers, schedules and parameter roles.

Every module of this folder is imported here, so an optimizer or schedule is added by writing one file.
"""

import importlib
import pkgutil

from optim.registry import OPTIMIZERS, SCHEDULES, OptimizerFactory, ScheduleFactory

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["OPTIMIZERS", "SCHEDULES", "OptimizerFactory", "ScheduleFactory"]
