"""The classical optimizers from scratch, to be read: a loop, and one file for each update rule.

They equal PyTorch's to rounding and are slower; `steepest.optim.classical.torch_optimizers` has the fast ones.
"""

from steepest.optim.classical.references.adam import Adam, reference_adam
from steepest.optim.classical.references.adamw import AdamW, reference_adamw
from steepest.optim.classical.references.base import Reference
from steepest.optim.classical.references.heavy_ball import HeavyBall, reference_momentum
from steepest.optim.classical.references.lbfgs import LBFGS, reference_lbfgs
from steepest.optim.classical.references.nesterov import Nesterov, reference_nesterov
from steepest.optim.classical.references.rmsprop import RMSprop, reference_rmsprop
from steepest.optim.classical.references.sgd import SGD, reference_sgd

__all__ = [
    "LBFGS",
    "SGD",
    "Adam",
    "AdamW",
    "HeavyBall",
    "Nesterov",
    "RMSprop",
    "Reference",
    "reference_adam",
    "reference_adamw",
    "reference_lbfgs",
    "reference_momentum",
    "reference_nesterov",
    "reference_rmsprop",
    "reference_sgd",
]
