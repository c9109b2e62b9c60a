"""LightningModules, one per kind of task, and the plain networks they train."""

from steepest.lightning_modules.base import BaseModule
from steepest.lightning_modules.image_classifier import ImageClassifier
from steepest.lightning_modules.language_model import LanguageModel
from steepest.lightning_modules.toy_objective import ToyObjective

__all__ = ["BaseModule", "ImageClassifier", "LanguageModel", "ToyObjective"]
