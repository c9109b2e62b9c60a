"""Gradient clipping: factory functions by name, each making a `Clipping` for a module.

Used by itself: `clipping = norm(model, max_norm=0.5)`, then `clipping.clip(optimizer.param_groups)` before each step.
"""

from steepest.optim.clipping.adaptive import agc
from steepest.optim.clipping.base import Clipping
from steepest.optim.clipping.fixed import norm, value
from steepest.optim.clipping.percentile import autoclip

__all__ = ["Clipping", "agc", "autoclip", "norm", "value"]
