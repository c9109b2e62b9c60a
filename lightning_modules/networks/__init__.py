"""Networks: plain `nn.Module` classes, usable without Lightning."""

from lightning_modules.networks.airbench import AirbenchCNN
from lightning_modules.networks.gpt2 import GPT2
from lightning_modules.networks.mixer import MLPMixer
from lightning_modules.networks.mlp import DeepMLP, SimpleMLP, WidthMLP
from lightning_modules.networks.resnet import ResNet18
from lightning_modules.networks.small_cnn import SmallCNN
from lightning_modules.networks.vit import ViT

__all__ = ["GPT2", "AirbenchCNN", "DeepMLP", "MLPMixer", "ResNet18", "SimpleMLP", "SmallCNN", "ViT", "WidthMLP"]
