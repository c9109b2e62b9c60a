"""The optimizers of pytorch-optimizer by name, `zoo_lion` to `zoo_yogi`; the extra `zoo` installs the package.

What cannot be had through one optimizer object under a common training loop is left out, each with its reason.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from steepest.optim.libraries.families import Family
from steepest.optim.libraries.wrapping import foreign_factory
from steepest.optim.registry import OPTIMIZERS

LEFT_OUT = {
    "adahessian": "it needs second derivatives, which a backward pass does not compute",
    "adalomo": "it updates during the backward pass and has no step",
    "adashift": "its state holds a queue, which a checkpoint cannot restore",
    "adammini": "it makes its own parameter groups from the layer names of one family of models",
    "alig": "it needs the loss inside its step, evaluated where gradients are switched off",
    "bsam": "it evaluates the model three times in a step",
    "demo": "it replaces the communication between ranks",
    "distributedmuon": "each rank keeps the momentum of some parameters only, so a checkpoint loses the others",
    "lbfgs": "it is that of PyTorch: choose lbfgs",
    "lomo": "it updates during the backward pass and has no step",
    "lorarite": "it is for pairs of low-rank adapters",
    "magma": "it wraps another optimizer",
    "scalableshampoo": "its state holds objects, which a checkpoint cannot restore",
    "sophiah": "it needs second derivatives, which a backward pass does not compute",
    "spectralsphere": "it takes matrices only",
}

_OWN_SIZE = "it chooses the size of its steps itself, the learning rate only takes part"
_PAST = "past steps are weighed with their learning rates, so it keeps moving at a learning rate of 0"
UNSCHEDULABLE = {
    "a2grad": "its step does not depend on the learning rate",
    "accsgd": "its fast average keeps moving at a learning rate of 0",
    "adafactor": "its steps have a relative size of their own",
    "adago": "its steps have a minimum size, eps, at any learning rate",
    "apollodqn": "it warms up by itself and overrides the learning rate meanwhile",
    "asgd": "it divides by the learning rate",
    "dadaptadagrad": _OWN_SIZE,
    "dadaptadam": _OWN_SIZE,
    "dadaptadan": _OWN_SIZE,
    "dadaptsgd": _OWN_SIZE,
    "ftrl": "it divides by the learning rate",
    "gravity": "its first step divides by the learning rate",
    "laprop": _PAST,
    "madgrad": _PAST,
    "nero": "it normalizes the weights at any learning rate",
    "ranger21": "it has a schedule of its own, over num_iterations",
    "schedulefreeadamw": "it needs none: averaging replaces the schedule",
    "schedulefreeradam": "it needs none: averaging replaces the schedule",
    "schedulefreesgd": "it needs none: averaging replaces the schedule",
    "srmm": "it averages past weights, so it keeps moving at a learning rate of 0",
}


MUON = ("adago", "adamuon", "muon", "muonclip", "normuon")


def _classes() -> dict[str, type[Optimizer]]:
    from pytorch_optimizer.optimizer import OPTIMIZERS as classes
    from pytorch_optimizer.optimizer.scion import LMONorm
    from pytorch_optimizer.optimizer.utils.galore import GaLoreProjector

    # Checkpoints are read as tensors and plain values; these harmless classes stand in the state of some.
    torch.serialization.add_safe_globals([GaLoreProjector, LMONorm])
    return {name: found for name, found in classes.items() if name not in LEFT_OUT}


def _make(name: str) -> Callable[..., Any]:
    algorithm = _classes()[name]
    return foreign_factory(
        f"zoo_{name}",
        __name__,
        algorithm,
        f"{algorithm.__name__} of pytorch-optimizer: {(inspect.getdoc(algorithm) or '.').splitlines()[0]}",
        unschedulable=UNSCHEDULABLE.get(name),
        by_matrix=name in MUON,
    )


OPTIMIZERS.add_family(
    Family(
        prefix="zoo",
        requires="zoo",
        summary="The optimizers of pytorch-optimizer.",
        names=lambda: list(_classes()),
        make=_make,
        left_out=LEFT_OUT,
    )
)
