"""LightningModules, one per kind of task, and the plain networks they train."""

from lightning_modules.base import BaseModule
from lightning_modules.image_classifier import ImageClassifier

__all__ = ["BaseModule", "ImageClassifier"]
