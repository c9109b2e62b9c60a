"""DataModules, one per data set, and the loaders they share."""

from datamodules.cifar10 import CIFAR10
from datamodules.digits import Digits
from datamodules.mnist import MNIST, FashionMNIST

__all__ = ["CIFAR10", "MNIST", "Digits", "FashionMNIST"]
