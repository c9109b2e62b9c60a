"""DataModules, one per data set, and the loaders they share."""

from datamodules.cifar10 import CIFAR10
from datamodules.digits import Digits
from datamodules.mnist import MNIST, FashionMNIST
from datamodules.shakespeare import ShakespeareCharacters
from datamodules.text_file import TextFile
from datamodules.tiny_text import TinyText
from datamodules.wikitext import WikiText103

__all__ = [
    "CIFAR10",
    "MNIST",
    "Digits",
    "FashionMNIST",
    "ShakespeareCharacters",
    "TextFile",
    "TinyText",
    "WikiText103",
]
