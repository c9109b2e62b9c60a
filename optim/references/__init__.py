"""The classical optimizers from scratch, to be read: a loop, and one file for each update rule.

They equal PyTorch's to rounding and are slower; `optim.classics` has the fast ones.
"""

from optim.references.adam import Adam, reference_adam
from optim.references.adamw import AdamW, reference_adamw
from optim.references.base import Reference
from optim.references.heavy_ball import HeavyBall, reference_momentum
from optim.references.lbfgs import LBFGS, reference_lbfgs
from optim.references.nesterov import Nesterov, reference_nesterov
from optim.references.rmsprop import RMSprop, reference_rmsprop
from optim.references.sgd import SGD, reference_sgd

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
