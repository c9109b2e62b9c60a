"""LightningModules, one per kind of task, and the plain networks they train."""

from lightning_modules.base import BaseModule
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.language_model import LanguageModel
from lightning_modules.toy_objective import ToyObjective

__all__ = ["BaseModule", "ImageClassifier", "LanguageModel", "ToyObjective"]
