"""Optimizers, schedules, gradient clipping and parameter roles.

Every module below this folder is imported here, so an optimizer, schedule or clipping is added by writing one file.
"""

from steepest.common.discovery import import_modules
from steepest.optim.autosgm import AutoSGM
from steepest.optim.classical.sam import SAM
from steepest.optim.registry import CLIPPINGS, OPTIMIZERS, SCHEDULES, ClippingFactory, OptimizerFactory, ScheduleFactory
from steepest.optim.schedules.options import OptionSchedule
from steepest.optim.spectral.budget import MuonAdamW, MuonSGD

import_modules("steepest.optim")

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
