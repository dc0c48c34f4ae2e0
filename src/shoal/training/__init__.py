"""Training: a plain loop, batch norms, distillation, healing, and layers that leave on the way."""

from shoal.training.batchnorm import recalibrate_
from shoal.training.concurrent import PRESETS, ConcurrentPruner, ConcurrentSettings, PruningProgress
from shoal.training.concurrent.lightning_callback import lightning_pruning_callback
from shoal.training.concurrent.trainer_callback import pruning_callback
from shoal.training.concurrent.worth import Worth
from shoal.training.fitting import FitReport, fit
from shoal.training.healing import HealSettings, heal
from shoal.training.optimisation import FitSettings
from shoal.training.protocols import Objective, Pruner
from shoal.training.runs import METHODS, TrainingResult, train

__all__ = [
    "METHODS",
    "PRESETS",
    "ConcurrentPruner",
    "ConcurrentSettings",
    "FitReport",
    "FitSettings",
    "HealSettings",
    "Objective",
    "Pruner",
    "PruningProgress",
    "TrainingResult",
    "Worth",
    "fit",
    "heal",
    "lightning_pruning_callback",
    "pruning_callback",
    "recalibrate_",
    "train",
]
