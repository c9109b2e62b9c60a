"""DataModules, one per data set, and the loaders they share."""

from datamodules.digits import Digits
from datamodules.mnist import MNIST, FashionMNIST

__all__ = ["MNIST", "Digits", "FashionMNIST"]
