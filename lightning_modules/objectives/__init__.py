"""Functions of a few weights with known minima: plain `nn.Module` classes, usable without Lightning."""

from lightning_modules.objectives.base import Objective
from lightning_modules.objectives.many_dimensions import Ackley, PowellSingular, Rastrigin, Rosenbrock, StyblinskiTang
from lightning_modules.objectives.quadratic import ElongatedBowl, Quadratic
from lightning_modules.objectives.surfaces import (
    Beale,
    Booth,
    GoldsteinPrice,
    Himmelblau,
    Matyas,
    Saddle,
    ThreeHumpCamel,
)

__all__ = [
    "Ackley",
    "Beale",
    "Booth",
    "ElongatedBowl",
    "GoldsteinPrice",
    "Himmelblau",
    "Matyas",
    "Objective",
    "PowellSingular",
    "Quadratic",
    "Rastrigin",
    "Rosenbrock",
    "Saddle",
    "StyblinskiTang",
    "ThreeHumpCamel",
]
