"""Training after surgery: recalibrated statistics, a plain training loop, distillation, healing."""

from shoal.training.batchnorm import recalibrate_
from shoal.training.fitting import FitReport, Objective, fit
from shoal.training.healing import HealSettings, heal
from shoal.training.optimisation import FitSettings

__all__ = ["FitReport", "FitSettings", "HealSettings", "Objective", "fit", "heal", "recalibrate_"]
