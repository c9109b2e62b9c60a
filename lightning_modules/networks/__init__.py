"""Networks: plain `nn.Module` classes, usable without Lightning."""

from lightning_modules.networks.gpt2 import GPT2
from lightning_modules.networks.mlp import DeepMLP, SimpleMLP
from lightning_modules.networks.small_cnn import SmallCNN

__all__ = ["GPT2", "DeepMLP", "SimpleMLP", "SmallCNN"]
