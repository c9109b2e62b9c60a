"""Thin Lightning callbacks around the functions of `diagnostics`.

What is imported here can be named without a path on the command line: `--trainer.callbacks+=GradientFlowMonitor`.
"""

from callbacks.checkpoints import Checkpoints
from callbacks.divergence_stop import DivergenceStop
from callbacks.gradient_flow import GradientFlowMonitor
from callbacks.learning_rate import LearningRateTracker
from callbacks.loss_landscape import LossLandscape
from callbacks.lr_range_test import LRRangeTest
from callbacks.noise_scale import GradientNoiseScale
from callbacks.objective_trajectory import ObjectiveTrajectory
from callbacks.progress_bar import StepProgressBar
from callbacks.schedule_free import ScheduleFreeSwitch
from callbacks.sharpness import SharpnessProbe
from callbacks.spectral_norm import SpectralNormTracker
from callbacks.step_seed import StepSeed
from callbacks.training_clock import TrainingClock
from callbacks.update_dynamics import UpdateDynamics

__all__ = [
    "Checkpoints",
    "DivergenceStop",
    "GradientFlowMonitor",
    "GradientNoiseScale",
    "LRRangeTest",
    "LearningRateTracker",
    "LossLandscape",
    "ObjectiveTrajectory",
    "ScheduleFreeSwitch",
    "SharpnessProbe",
    "SpectralNormTracker",
    "StepProgressBar",
    "StepSeed",
    "TrainingClock",
    "UpdateDynamics",
]
