"""Optimizers, schedules, gradient clipping and parameter roles.

Every module of this folder is imported here, so an optimizer, schedule or clipping is added by writing one file.
"""

import importlib
import pkgutil

from optim.autosgm import AutoSGM
from optim.muon_adamw import MuonAdamW
from optim.muon_sgd import MuonSGD
from optim.registry import CLIPPINGS, OPTIMIZERS, SCHEDULES, ClippingFactory, OptimizerFactory, ScheduleFactory
from optim.sam import SAM
from optim.scheduled_options import OptionSchedule

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "CLIPPINGS",
    "OPTIMIZERS",
    "SAM",
    "SCHEDULES",
    "AutoSGM",
    "ClippingFactory",
    "MuonAdamW",
    "MuonSGD",
    "OptimizerFactory",
    "OptionSchedule",
    "ScheduleFactory",
]
