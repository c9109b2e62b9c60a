"""LightningModules, one per kind of task, and the plain networks they train."""

from lightning_modules.base import BaseModule
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.language_model import LanguageModel

__all__ = ["BaseModule", "ImageClassifier", "LanguageModel"]
